// Reading files whole, in pieces, and as memory.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>

#include <cstddef>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "result.h"

namespace ctxrt::core {

using Bytes = std::span<const std::byte>;
using Path = std::filesystem::path;

// A file or folder that is opened for reading, closed with the object. Whether it could be opened, `status` tells.
class OpenFile {
 public:
  // `flags` beyond those of reading; a relative path is one in `folder`.
  explicit OpenFile(Path path, int flags = 0, int folder = AT_FDCWD)
      : path_(std::move(path)), descriptor_(::openat(folder, path_.c_str(), O_RDONLY | O_CLOEXEC | flags)) {}
  ~OpenFile();
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;

  int descriptor() const { return descriptor_; }
  std::optional<struct stat> status() const;
  // Fills `buffer` as far as the file goes; the bytes read, or -1 on an error.
  ssize_t read(std::span<std::byte> buffer) const;
  // What to say after any of these has failed; the kind is `input`.
  Error unreadable() const;

 private:
  Path path_;
  int descriptor_;
};

// At most `limit` bytes from the start of a file; the error is of the kind `input`.
Result<std::vector<std::byte>> read_file(const Path& path, std::size_t limit);

// The sha256 of a file, in hexadecimal; it must not shrink meanwhile.
Result<std::string> sha256_file(const Path& path);

// A file mapped for reading; its pages are shared with every other process that maps it. It must not shrink.
class MappedFile {
 public:
  static Result<std::shared_ptr<const MappedFile>> open(const Path& path);
  static Result<std::shared_ptr<const MappedFile>> of(const OpenFile& file);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  Bytes bytes() const { return bytes_; }

 private:
  explicit MappedFile(Bytes bytes) : bytes_(bytes) {}
  Bytes bytes_;
};

}  // namespace ctxrt::core
