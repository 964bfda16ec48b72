// Reading files whole, in pieces, and as memory.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "result.h"

namespace ctxrt::core {

using Bytes = std::span<const std::byte>;
using Path = std::filesystem::path;

// At most `limit` bytes from the start of a file; the error is of the kind `input`.
Result<std::vector<std::byte>> read_file(const Path& path, std::size_t limit);

// The sha256 of a file, in hexadecimal; it must not shrink meanwhile.
Result<std::string> sha256_file(const Path& path);

// A file mapped for reading; its pages are shared with every other process that maps it. It must not shrink.
class MappedFile {
 public:
  static Result<std::shared_ptr<const MappedFile>> open(const Path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  Bytes bytes() const { return bytes_; }

 private:
  explicit MappedFile(Bytes bytes) : bytes_(bytes) {}
  Bytes bytes_;
};

}  // namespace ctxrt::core
