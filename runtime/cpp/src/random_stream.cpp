#include "random_stream.h"

#include <bit>

namespace ctxrt::core {
namespace {

// A hash whose constant changes with every use.
struct Hash {
  std::uint32_t constant, multiplier;

  std::uint32_t operator()(std::uint32_t value) {
    value ^= constant;
    constant *= multiplier;
    value *= constant;
    return value ^ (value >> 16);
  }
};

std::uint32_t mixed(std::uint32_t a, std::uint32_t b) {
  const std::uint32_t value = 0xca01f9ddU * a - 0x4973f715U * b;
  return value ^ (value >> 16);
}

// The four words that NumPy's SeedSequence(seed) seeds a generator with.
std::array<std::uint64_t, 4> seed_words(std::uint64_t seed) {
  Hash hash{0x43b0d7e5U, 0x931e8875U};
  std::array<std::uint32_t, 4> pool{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32), 0, 0};
  for (auto& part : pool) part = hash(part);
  for (std::size_t from = 0; from < pool.size(); ++from) {
    for (std::size_t to = 0; to < pool.size(); ++to) {
      if (from != to) pool[to] = mixed(pool[to], hash(pool[from]));
    }
  }
  hash = {0x8b51f9ddU, 0x58f38dedU};
  std::array<std::uint64_t, 4> words{};
  for (std::size_t i = 0; i < 2 * words.size(); ++i) {
    words[i / 2] |= std::uint64_t{hash(pool[i % pool.size()])} << (i % 2 * 32);
  }
  return words;
}

}  // namespace

RandomStream::RandomStream(std::uint64_t seed) {
  const auto words = seed_words(seed);
  increment_ = (((Word{words[2]} << 64) | words[3]) << 1) | 1;
  step();
  state_ += (Word{words[0]} << 64) | words[1];
  step();
}

void RandomStream::step() {
  constexpr Word multiplier = (Word{0x2360ed051fc65da4ULL} << 64) | 0x4385df649fccf645ULL;
  state_ = state_ * multiplier + increment_;
}

double RandomStream::uniform() {
  step();
  const auto high = static_cast<std::uint64_t>(state_ >> 64), low = static_cast<std::uint64_t>(state_);
  const std::uint64_t drawn = std::rotr(high ^ low, static_cast<int>(state_ >> 122));
  return static_cast<double>(drawn >> 11) * 0x1p-53;
}

}  // namespace ctxrt::core
