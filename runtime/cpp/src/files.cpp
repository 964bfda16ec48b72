#include "files.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "sha256.h"

namespace ctxrt::core {
OpenFile::~OpenFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

std::optional<struct stat> OpenFile::status() const {
  struct stat status {};
  if (descriptor_ < 0 || ::fstat(descriptor_, &status) != 0) return std::nullopt;
  return status;
}

ssize_t OpenFile::read(std::span<std::byte> buffer) const {
  std::size_t done = 0;
  while (done < buffer.size()) {
    const ssize_t size = ::read(descriptor_, buffer.data() + done, buffer.size() - done);
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) return -1;
    if (size == 0) break;
    done += size;
  }
  return static_cast<ssize_t>(done);
}

Error OpenFile::unreadable() const {
  return input_error(text(path_.string(), " can't be read: ", std::strerror(errno)));
}

Result<std::vector<std::byte>> read_file(const Path& path, std::size_t limit) {
  const OpenFile file(path);
  const auto status = file.status();
  if (!status) return file.unreadable();
  std::vector<std::byte> bytes(std::min<std::size_t>(limit, status->st_size));
  const ssize_t size = file.read(bytes);
  if (size < 0) return file.unreadable();
  bytes.resize(size);
  return bytes;
}

Result<std::string> sha256_file(const Path& path) {
  CTXRT_ASSIGN(const auto file, MappedFile::open(path));
  return sha256(file->bytes());
}

Result<std::shared_ptr<const MappedFile>> MappedFile::open(const Path& path) { return of(OpenFile(path)); }

Result<std::shared_ptr<const MappedFile>> MappedFile::of(const OpenFile& file) {
  const auto status = file.status();
  if (!status) return file.unreadable();
  const auto size = static_cast<std::size_t>(status->st_size);
  if (size == 0) return std::shared_ptr<const MappedFile>(new MappedFile({}));
  void* memory = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, file.descriptor(), 0);
  if (memory == MAP_FAILED) return file.unreadable();
  return std::shared_ptr<const MappedFile>(new MappedFile({static_cast<const std::byte*>(memory), size}));
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

}  // namespace ctxrt::core
