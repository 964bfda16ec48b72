// The small parts that no conformance case reaches: numbers, archives, text.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <thread>

#include "cases.h"
#include "half.h"
#include "npz.h"
#include "session.h"
#include "system_memory.h"
#include "utf8.h"
#include "zip.h"

namespace ctxrt::tests {
namespace {

TEST(Half, EveryNumberSurvives) {
  for (std::uint32_t bits = 0; bits < 0x7c00; ++bits) {
    const auto half = std::bit_cast<core::Half>(static_cast<std::uint16_t>(bits));
    EXPECT_EQ(std::bit_cast<std::uint16_t>(core::Half(static_cast<double>(half))), bits);
  }
}

TEST(Half, RoundsToEvenAndOverflows) {
  EXPECT_EQ(static_cast<double>(core::Half(2049.0)), 2048.0);
  EXPECT_EQ(static_cast<double>(core::Half(2051.0)), 2052.0);
  EXPECT_EQ(static_cast<double>(core::Half(65519.0)), 65504.0);
  EXPECT_TRUE(std::isinf(static_cast<double>(core::Half(-65520.0))));
  EXPECT_TRUE(std::isnan(static_cast<double>(core::Half(std::nan("")))));
}

TEST(Utf8, TellsSoundFromBroken) {
  EXPECT_TRUE(core::is_utf8("caf\xc3\xa9 \xe2\x9c\x93 \xf0\x9f\x98\x80"));
  for (const char* broken : {"\xff", "\xc3", "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\x80", "\xe2\x9c"}) {
    EXPECT_FALSE(core::is_utf8(broken));
  }
}

TEST(Npz, WritesWhatItReads) {
  const TemporaryFolder folder;
  const core::Tensors arrays{{"scalar", core::from_doubles(std::array{2.5}, core::DType::float32, {})},
                             {"row", core::from_doubles(std::array{1.0, -2.0, 3.0}, core::DType::int64, {3})},
                             {"none", core::from_doubles({}, core::DType::float16, {0, 4})}};
  ASSERT_TRUE(core::write_npz(folder.path() / "a.npz", arrays));
  const auto read = core::read_npz(folder.path() / "a.npz", 1 << 20);
  ASSERT_TRUE(read) << read.error().message;
  ASSERT_EQ(read->size(), arrays.size());
  for (const auto& [name, array] : arrays) {
    EXPECT_EQ(read->at(name).shape, array.shape);
    EXPECT_EQ(core::to_doubles(read->at(name)), core::to_doubles(array));
  }
}

TEST(Zip, RefusesDamage) {
  const std::vector<std::byte> bytes(100, std::byte{7});
  const auto archive = core::make_zip({{"a", bytes}});
  for (std::size_t size = 0; size < archive.size(); ++size) {
    const auto entries = core::list_zip(core::Bytes(archive).first(size));
    EXPECT_FALSE(entries && !entries->empty() && core::read_zip(core::Bytes(archive).first(size), entries->front()));
  }
  auto flipped = archive;
  flipped[60] ^= std::byte{1};
  EXPECT_FALSE(core::read_zip(flipped, core::list_zip(flipped)->front()));
}

TEST(Cast, LosesNoNumber) {
  const auto big = core::make_tensor(core::DType::int64, {1},
                                     [](std::byte* out) { *reinterpret_cast<std::int64_t*>(out) = 1LL << 40; });
  EXPECT_FALSE(core::cast(big, core::DType::int32));
  EXPECT_TRUE(core::cast(core::from_doubles(std::array{7.0}, core::DType::int64, {1}), core::DType::int32));
  EXPECT_FALSE(core::cast(core::from_doubles(std::array{2.0}, core::DType::int64, {1}), core::DType::boolean));
  EXPECT_FALSE(core::cast(core::from_doubles(std::array{2.0}, core::DType::float64, {1}), core::DType::int64));
}

TEST(CancelToken, StopsRunsNowAndLater) {
  core::CancelToken token;
  int stopped = 0;
  {
    const core::CancelToken::Guard guard(&token, [&] { ++stopped; });
    std::jthread([&] { token.cancel(); }).join();
  }
  EXPECT_EQ(stopped, 1);
  const core::CancelToken::Guard later(&token, [&] { ++stopped; });
  EXPECT_EQ(stopped, 2);
}

TEST(SystemMemory, IsWhatTheMachineAndTheControlGroupLeave) {
  const TemporaryFolder root;
  const auto write = [&](const std::filesystem::path& path, const char* content) {
    std::filesystem::create_directories((root.path() / path).parent_path());
    std::ofstream(root.path() / path) << content;
  };
  EXPECT_EQ(core::available_bytes(root.path()), std::nullopt);
  write("proc/meminfo", "MemTotal: 200 kB\nMemAvailable: 100 kB\nHugePages_Total: 0\n");
  EXPECT_EQ(core::available_bytes(root.path()), 102400);
  write("sys/fs/cgroup/memory.current", "50000\n");
  write("sys/fs/cgroup/memory.max", "max\n");
  EXPECT_EQ(core::available_bytes(root.path()), 102400);
  write("sys/fs/cgroup/memory.max", "70000\n");
  write("sys/fs/cgroup/memory.stat", "anon 1\ninactive_file 4000\n");
  EXPECT_EQ(core::available_bytes(root.path()), 24000);
  EXPECT_GT(core::available_bytes(), 0);
}

}  // namespace
}  // namespace ctxrt::tests
