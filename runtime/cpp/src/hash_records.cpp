#include "hash_records.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <optional>

#include "cache_folder.h"
#include "sha256.h"

namespace ctxrt::core {
namespace {

constexpr std::int64_t kMinBytes = 1 << 20;         // smaller files are hashed faster than it is worth to know them
constexpr std::int64_t kSettledNs = 2'000'000'000;  // a file that changed later can change again within one tick

// Wraps around as two's complement does: a time beyond the year 2262 is another than Python's, and no record holds.
std::int64_t nanoseconds(const timespec& time) {
  return static_cast<std::int64_t>(static_cast<std::uint64_t>(time.tv_sec) * 1'000'000'000U +
                                   static_cast<std::uint64_t>(time.tv_nsec));
}

std::string state_of(const struct stat& status) {
  return text(status.st_dev, " ", status.st_ino, " ", status.st_size, " ", nanoseconds(status.st_mtim), " ",
              nanoseconds(status.st_ctim));
}

std::string record_of(const struct stat& status, const std::string& sha256) {
  return text(sha256, " ", state_of(status), "\n");
}

// Where the record of a file is; none where the user has no folder for it.
std::optional<Path> place_of(const struct stat& status) {
  auto root = cache_root();
  if (root.empty()) return std::nullopt;
  return root / "hashes" / text(status.st_dev, "-", status.st_ino);
}

// Whether only this user can write it.
bool is_own(const OpenFile& file) {
  const auto status = file.status();
  return status && status->st_uid == ::geteuid() && (status->st_mode & (S_IWGRP | S_IWOTH)) == 0;
}

bool is_recorded(const struct stat& status, const std::string& sha256) {
  const auto place = place_of(status);
  if (!place) return false;
  const OpenFile folder(place->parent_path(), O_DIRECTORY | O_NOFOLLOW);
  if (!is_own(folder)) return false;
  const OpenFile record(place->filename(), O_NOFOLLOW | O_NONBLOCK, folder.descriptor());
  const std::string expected = record_of(status, sha256);
  std::string found(expected.size() + 1, '\0');
  if (!is_own(record) || record.read(std::as_writable_bytes(std::span(found))) != std::ssize(expected)) return false;
  return found.starts_with(expected);
}

// Writes a record if that is possible; without it the file is hashed again.
void write_record(const struct stat& status, const std::string& sha256) {
  const auto place = place_of(status);
  if (!place) return;
  const Path folder = place->parent_path();
  std::error_code failure;
  std::filesystem::create_directories(folder.parent_path(), failure);
  ::mkdir(folder.c_str(), S_IRWXU);
  std::string partial = (folder / ".partial-XXXXXX").string();
  const int descriptor = ::mkostemp(partial.data(), O_CLOEXEC);
  if (descriptor < 0) return;
  const std::string record = record_of(status, sha256);
  const bool written = ::write(descriptor, record.data(), record.size()) == std::ssize(record);
  ::close(descriptor);
  if (!written || ::rename(partial.c_str(), place->c_str()) != 0) ::unlink(partial.c_str());
}

Result<bool> hashes_to(const OpenFile& file, const std::string& expected) {
  CTXRT_ASSIGN(const auto mapped, MappedFile::of(file));
  return sha256(mapped->bytes()) == expected;
}

}  // namespace

Result<bool> has_sha256(const Path& path, const std::string& sha256, bool recorded) {
  const OpenFile file(path);
  const auto found = file.status();
  if (!found) return file.unreadable();
  if (!recorded || found->st_size < kMinBytes) return hashes_to(file, sha256);
  if (is_recorded(*found, sha256)) return true;
  ::fsync(file.descriptor());  // it fails on read-only media, which have nothing to sync
  const auto before = file.status();
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  CTXRT_ASSIGN(const bool equal, hashes_to(file, sha256));
  const auto after = file.status();
  if (!before || !after) return file.unreadable();
  const auto changed = std::max(nanoseconds(before->st_mtim), nanoseconds(before->st_ctim));
  const bool settled = changed < nanoseconds(now) - kSettledNs && state_of(*after) == state_of(*before);
  if (equal && settled) write_record(*before, sha256);
  return equal;
}

}  // namespace ctxrt::core
