#include "zip.h"

#include <zlib.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <string_view>

namespace ctxrt::core {
namespace {

constexpr std::uint32_t kLocalHeader = 0x04034b50, kDirectoryHeader = 0x02014b50, kDirectoryEnd = 0x06054b50;
constexpr std::size_t kLocalBytes = 30, kDirectoryBytes = 46, kEndBytes = 22, kMaxComment = 65535;
constexpr std::uint16_t kStored = 0, kDeflated = 8, kEncrypted = 1;

Error broken(const char* what) { return input_error(what); }

// A number of `T` at `offset`; the caller has checked that it is there.
template <class T>
T number_at(Bytes bytes, std::size_t offset) {
  T number;
  std::memcpy(&number, bytes.data() + offset, sizeof(T));
  return number;
}

template <class T>
void append(std::vector<std::byte>& out, T number) {
  const auto* bytes = reinterpret_cast<const std::byte*>(&number);
  out.insert(out.end(), bytes, bytes + sizeof(T));
}

void append_bytes(std::vector<std::byte>& out, Bytes bytes) { out.insert(out.end(), bytes.begin(), bytes.end()); }

std::uint32_t crc_of(Bytes bytes) {
  return static_cast<std::uint32_t>(
      ::crc32(0, reinterpret_cast<const Bytef*>(bytes.data()), static_cast<uInt>(bytes.size())));
}

std::optional<std::size_t> find_end(Bytes archive) {
  if (archive.size() < kEndBytes) return std::nullopt;
  const std::size_t last = archive.size() - kEndBytes;
  const std::size_t first = last > kMaxComment ? last - kMaxComment : 0;
  for (std::size_t position = last + 1; position-- > first;) {
    if (number_at<std::uint32_t>(archive, position) == kDirectoryEnd) return position;
  }
  return std::nullopt;
}

Result<std::vector<std::byte>> inflate_all(Bytes packed, std::size_t bytes) {
  std::vector<std::byte> out(bytes);
  z_stream stream{};
  if (inflateInit2(&stream, -MAX_WBITS) != Z_OK) return broken("zlib does not start");
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(packed.data()));
  stream.avail_in = static_cast<uInt>(packed.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  const int status = inflate(&stream, Z_FINISH);
  const bool whole = stream.avail_out == 0 && status == Z_STREAM_END;
  inflateEnd(&stream);
  if (!whole) return broken("an entry can't be inflated");
  return out;
}

// The fields that local and directory headers share, from the version on.
void append_header(std::vector<std::byte>& out, const ZipEntry& entry) {
  append(out, std::uint16_t{20});
  append(out, std::uint16_t{0});
  append(out, kStored);
  append(out, std::uint32_t{0x00210000});  // 1980-01-01
  append(out, entry.crc32);
  append(out, static_cast<std::uint32_t>(entry.bytes));
  append(out, static_cast<std::uint32_t>(entry.bytes));
  append(out, static_cast<std::uint16_t>(entry.name.size()));
  append(out, std::uint16_t{0});
}

}  // namespace

Result<std::vector<ZipEntry>> list_zip(Bytes archive) {
  const auto end = find_end(archive);
  if (!end) return broken("it is not a zip file");
  if (number_at<std::uint32_t>(archive, 0) != kLocalHeader) return broken("it does not begin with its first entry");
  const auto count = number_at<std::uint16_t>(archive, *end + 10);
  std::size_t position = number_at<std::uint32_t>(archive, *end + 16);
  std::vector<ZipEntry> entries;
  for (unsigned i = 0; i < count; ++i) {
    if (position > *end || *end - position < kDirectoryBytes) return broken("its directory is cut off");
    if (number_at<std::uint32_t>(archive, position) != kDirectoryHeader) return broken("its directory is broken");
    const Bytes header = archive.subspan(position);
    const auto method = number_at<std::uint16_t>(header, 10);
    const std::size_t name_bytes = number_at<std::uint16_t>(header, 28);
    const std::size_t skipped =
        number_at<std::uint16_t>(header, 30) + std::size_t{number_at<std::uint16_t>(header, 32)};
    if (header.size() < kDirectoryBytes + name_bytes) return broken("its directory is cut off");
    if ((number_at<std::uint16_t>(header, 8) & kEncrypted) != 0 || (method != kStored && method != kDeflated)) {
      return broken("an entry is compressed otherwise than by deflate");
    }
    entries.push_back({{reinterpret_cast<const char*>(header.data()) + kDirectoryBytes, name_bytes},
                       number_at<std::uint32_t>(header, 16),
                       number_at<std::uint32_t>(header, 20),
                       number_at<std::uint32_t>(header, 24),
                       method == kDeflated,
                       number_at<std::uint32_t>(header, 42)});
    position += kDirectoryBytes + name_bytes + skipped;
  }
  return entries;
}

Result<std::vector<std::byte>> read_zip(Bytes archive, const ZipEntry& entry) {
  const std::size_t start = entry.local_header;
  if (start > archive.size() || archive.size() - start < kLocalBytes) return broken("an entry is cut off");
  if (number_at<std::uint32_t>(archive, start) != kLocalHeader) return broken("an entry is broken");
  const std::size_t name_bytes = number_at<std::uint16_t>(archive, start + 26);
  const std::size_t data = start + kLocalBytes + name_bytes + number_at<std::uint16_t>(archive, start + 28);
  if (data > archive.size() || archive.size() - data < entry.packed_bytes) return broken("an entry is cut off");
  const std::string_view name(reinterpret_cast<const char*>(archive.data()) + start + kLocalBytes, name_bytes);
  if (name != entry.name) return broken("an entry has two names");
  const Bytes packed = archive.subspan(data, entry.packed_bytes);
  if (!entry.deflated && packed.size() != entry.bytes) return broken("a stored entry has two sizes");
  std::vector<std::byte> out;
  if (entry.deflated) {
    CTXRT_ASSIGN(out, inflate_all(packed, entry.bytes));
  } else {
    out.assign(packed.begin(), packed.end());
  }
  if (crc_of(out) != entry.crc32) return broken("an entry is damaged");
  return out;
}

std::vector<std::byte> make_zip(const std::vector<std::pair<std::string, std::vector<std::byte>>>& entries) {
  std::vector<std::byte> out, directory;
  for (const auto& [name, bytes] : entries) {
    const Bytes letters = std::as_bytes(std::span(name));
    const ZipEntry entry{name, crc_of(bytes), bytes.size(), bytes.size(), false, out.size()};
    append(directory, kDirectoryHeader);
    append(directory, std::uint16_t{20});
    append_header(directory, entry);
    append(directory, std::uint64_t{0});  // no comment, first disk, no attributes
    append(directory, std::uint16_t{0});
    append(directory, static_cast<std::uint32_t>(entry.local_header));
    append_bytes(directory, letters);
    append(out, kLocalHeader);
    append_header(out, entry);
    append_bytes(out, letters);
    append_bytes(out, bytes);
  }
  const auto start = static_cast<std::uint32_t>(out.size());
  append_bytes(out, directory);
  append(out, kDirectoryEnd);
  append(out, std::uint32_t{0});
  append(out, static_cast<std::uint16_t>(entries.size()));
  append(out, static_cast<std::uint16_t>(entries.size()));
  append(out, static_cast<std::uint32_t>(directory.size()));
  append(out, start);
  append(out, std::uint16_t{0});
  return out;
}

}  // namespace ctxrt::core
