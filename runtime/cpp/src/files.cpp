#include "files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "sha256.h"

namespace ctxrt::core {
namespace {

Error unreadable(const Path& path) {
  return input_error(text(path.string(), " can't be read: ", std::strerror(errno)));
}

class OpenFile {
 public:
  explicit OpenFile(const Path& path) : descriptor_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {}
  ~OpenFile() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;

  int descriptor() const { return descriptor_; }

  // Fills `buffer` as far as the file goes; -1 on an error.
  ssize_t read(std::span<std::byte> buffer) const {
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

 private:
  int descriptor_;
};

}  // namespace

Result<std::vector<std::byte>> read_file(const Path& path, std::size_t limit) {
  const OpenFile file(path);
  struct stat status {};
  if (file.descriptor() < 0 || ::fstat(file.descriptor(), &status) != 0) return unreadable(path);
  std::vector<std::byte> bytes(std::min<std::size_t>(limit, status.st_size));
  const ssize_t size = file.read(bytes);
  if (size < 0) return unreadable(path);
  bytes.resize(size);
  return bytes;
}

Result<std::string> sha256_file(const Path& path) {
  CTXRT_ASSIGN(const auto file, MappedFile::open(path));
  return sha256(file->bytes());
}

Result<std::shared_ptr<const MappedFile>> MappedFile::open(const Path& path) {
  const OpenFile file(path);
  struct stat status {};
  if (file.descriptor() < 0 || ::fstat(file.descriptor(), &status) != 0) return unreadable(path);
  const auto size = static_cast<std::size_t>(status.st_size);
  if (size == 0) return std::shared_ptr<const MappedFile>(new MappedFile({}));
  void* memory = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, file.descriptor(), 0);
  if (memory == MAP_FAILED) return unreadable(path);
  return std::shared_ptr<const MappedFile>(new MappedFile({static_cast<const std::byte*>(memory), size}));
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

}  // namespace ctxrt::core
