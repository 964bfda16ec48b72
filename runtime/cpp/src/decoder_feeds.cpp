#include "decoder_feeds.h"

#include <algorithm>
#include <cstring>
#include <numeric>

namespace ctxrt::core {
namespace {

constexpr std::int64_t kEmpty = -1;  // the position of a slot that holds no token

template <class T>
Tensor tensor_of(DType dtype, Shape shape, const std::vector<T>& numbers) {
  return make_tensor(dtype, std::move(shape),
                     [&](std::byte* out) { std::memcpy(out, numbers.data(), numbers.size() * sizeof(T)); });
}

Tensor one(std::int64_t number) { return tensor_of(DType::int64, {1}, std::vector<std::int64_t>{number}); }

Tensor one_int32(std::int64_t number) {
  return tensor_of(DType::int32, {1}, std::vector<std::int32_t>{static_cast<std::int32_t>(number)});
}

// The slot of the token at `position`, in the form `attention`, which writes anywhere.
std::int64_t write_slot(std::int64_t position, std::int64_t capacity, std::int64_t sinks) {
  return position < capacity ? position : sinks + (position - sinks) % (capacity - sinks);
}

// The position in each slot of a text of `length` tokens, which in a full cache were written one by one.
std::vector<std::int64_t> held_positions(std::int64_t length, std::int64_t capacity, std::int64_t sinks) {
  std::vector<std::int64_t> positions(capacity, kEmpty);
  const std::int64_t last = length - 1, ring = capacity - sinks;
  for (std::int64_t slot = 0; slot < std::min(length, capacity); ++slot) {
    positions[slot] = slot < sinks ? slot : slot + (last - slot) / ring * ring;
  }
  return positions;
}

// Which slots each new token may look at, (1, 1, length, capacity); `window` positions back, its own included.
Tensor visible(const std::vector<std::int64_t>& slots, std::int64_t start, std::int64_t length,
               std::optional<std::int64_t> window) {
  const auto capacity = std::ssize(slots);
  return make_tensor(DType::boolean, {1, 1, length, capacity}, [&](std::byte* out) {
    for (std::int64_t position = start; position < start + length; ++position) {
      for (const auto held : slots) {
        const std::int64_t distance = position - held;
        const bool seen = held != kEmpty && distance >= 0 && (!window || distance < *window);
        *out++ = static_cast<std::byte>(seen);
      }
    }
  });
}

}  // namespace

std::int64_t retired_slot(std::int64_t position, std::int64_t capacity, std::int64_t sinks) {
  return sinks + (position - (capacity - 1)) % (capacity - 1 - sinks);
}

Tensors decoder_feeds(const DecoderRecord& decoder, std::span<const std::int64_t> ids, std::int64_t start,
                      std::int64_t capacity) {
  const auto length = std::ssize(ids);
  std::vector<std::int64_t> positions(length);
  std::iota(positions.begin(), positions.end(), start);
  Tensors feeds{{"input_ids", tensor_of(DType::int64, {1, length}, std::vector<std::int64_t>(ids.begin(), ids.end()))},
                {"position_ids", tensor_of(DType::int64, {1, length}, positions)},
                {"last", one(length - 1)}};
  if (decoder.form == DecoderForm::gqa) {
    const std::int64_t filled = std::min(start, capacity - 1) + length;
    feeds["seqlens_k"] = one_int32(filled - 1);
    feeds["total_sequence_length"] = one_int32(filled);
    return feeds;
  }
  const auto slots = held_positions(start + length, capacity, decoder.sinks);
  feeds["write_indices"] = one(write_slot(start, capacity, decoder.sinks));
  feeds["mask"] = visible(slots, start, length, std::nullopt);
  if (decoder.sliding_window) feeds["mask_sliding"] = visible(slots, start, length, decoder.sliding_window);
  return feeds;
}

}  // namespace ctxrt::core
