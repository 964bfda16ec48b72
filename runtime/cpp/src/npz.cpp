#include "npz.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>
#include <set>

#include "zip.h"

namespace ctxrt::core {
namespace {

constexpr std::string_view kMagic("\x93NUMPY\x01\x00", 8);
constexpr std::size_t kPreamble = 10;  // magic, version and the length of the header
constexpr std::size_t kMaxHeaderBytes = 1024;
constexpr std::string_view kExtension = ".npy";

struct TypeCode {
  std::string_view code;
  DType dtype;
};
constexpr std::array kTypeCodes = {TypeCode{"<f4", DType::float32}, TypeCode{"<f2", DType::float16},
                                   TypeCode{"<i8", DType::int64},   TypeCode{"<i4", DType::int32},
                                   TypeCode{"|b1", DType::boolean}, TypeCode{"<f8", DType::float64}};

bool take(std::string_view& left, std::string_view token) {
  if (!left.starts_with(token)) return false;
  left.remove_prefix(token.size());
  return true;
}

// Takes a shape and what closes it: `)`, `3,)` or `2, 3)`.
bool take_shape(std::string_view& left, Shape& shape) {
  if (take(left, ")")) return true;
  do {
    const std::size_t digits = std::min(left.find_first_not_of("0123456789"), left.size());
    const bool leading_zero = digits > 1 && left.front() == '0';
    if (digits < 1 || digits > 18 || leading_zero || shape.size() == 8) return false;
    shape.push_back(std::stoll(std::string(left.substr(0, digits))));
    left.remove_prefix(digits);
  } while (take(left, ", "));
  return take(left, shape.size() == 1 ? ",)" : ")");
}

// Reads the header of an npy file as numpy writes it: `{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }`.
bool read_dictionary(std::string_view left, NpyHeader& header) {
  if (!take(left, "{'descr': '")) return false;
  const auto type =
      std::find_if(kTypeCodes.begin(), kTypeCodes.end(), [&](const auto& one) { return left.starts_with(one.code); });
  if (type == kTypeCodes.end()) return false;
  header.dtype = type->dtype;
  left.remove_prefix(type->code.size());
  if (!take(left, "', 'fortran_order': False, 'shape': (") || !take_shape(left, header.shape) || !take(left, ", }"))
    return false;
  left.remove_prefix(std::min(left.find_first_not_of(' '), left.size()));
  return left == "\n";
}

// The bytes of the numbers of a shape; none if there are more than an archive may hold.
std::optional<std::size_t> bytes_of(const NpyHeader& header) {
  std::size_t bytes = item_bytes(header.dtype);
  for (const auto size : header.shape) {
    if (size != 0 && bytes > (std::size_t{1} << 40) / static_cast<std::size_t>(size)) return std::nullopt;
    bytes *= static_cast<std::size_t>(size);
  }
  return bytes;
}

// The header of an entry, if the entry has exactly the bytes of its shape.
std::optional<NpyHeader> header_of(Bytes file) {
  auto header = parse_npy_header(file);
  if (!header) return std::nullopt;
  const auto bytes = bytes_of(*header);
  if (!bytes || file.size() != header->data + *bytes) return std::nullopt;
  return header;
}

Result<std::vector<ZipEntry>> list_arrays(Bytes archive, std::size_t max_bytes) {
  CTXRT_ASSIGN(auto entries, list_zip(archive));
  std::set<std::string> names;
  std::size_t total = 0;
  for (const auto& entry : entries) {
    total += entry.bytes;
    if (!names.insert(entry.name).second) return input_error("an entry comes twice");
    if (!entry.name.ends_with(kExtension)) return input_error(text("the entry '", entry.name, "' is no array"));
  }
  if (total > max_bytes) return input_error(text("its arrays have more than ", max_bytes, " bytes"));
  return entries;
}

std::vector<std::byte> npy_of(const Tensor& array) {
  const auto code =
      std::find_if(kTypeCodes.begin(), kTypeCodes.end(), [&](const auto& type) { return type.dtype == array.dtype; });
  std::string shape;
  for (const auto size : array.shape) shape += text(shape.empty() ? "" : ", ", size);
  if (array.shape.size() == 1) shape += ",";
  std::string header = text("{'descr': '", code->code, "', 'fortran_order': False, 'shape': (", shape, "), }");
  header.append(63 - (kPreamble + header.size()) % 64, ' ').append("\n");
  std::string start(kMagic);
  start += static_cast<char>(header.size() & 0xffU);
  start += static_cast<char>(header.size() >> 8U);
  start += header;
  const Bytes bytes = std::as_bytes(std::span(start));
  std::vector<std::byte> out(bytes.begin(), bytes.end());
  out.insert(out.end(), array.data.get(), array.data.get() + array.bytes());
  return out;
}

}  // namespace

std::optional<NpyHeader> parse_npy_header(Bytes file) {
  const std::string_view characters(reinterpret_cast<const char*>(file.data()), file.size());
  if (characters.size() < kPreamble || !characters.starts_with(kMagic)) return std::nullopt;
  const std::size_t length =
      static_cast<unsigned char>(characters[8]) + 256 * static_cast<unsigned char>(characters[9]);
  if (length > kMaxHeaderBytes || characters.size() - kPreamble < length) return std::nullopt;
  NpyHeader header;
  header.data = kPreamble + length;
  if (!read_dictionary(characters.substr(kPreamble, length), header)) return std::nullopt;
  return header;
}

Result<Tensors> read_npz(const Path& path, std::size_t max_bytes) {
  CTXRT_ASSIGN(const auto file, MappedFile::open(path));
  const auto entries = list_arrays(file->bytes(), max_bytes);
  if (!entries) return input_error(text(path.string(), " is not an .npz of plain arrays: ", entries.error().message));
  Tensors arrays;
  for (const auto& entry : *entries) {
    const auto bytes = read_zip(file->bytes(), entry);
    const auto header = bytes ? header_of(*bytes) : std::nullopt;
    if (!header) return input_error(text(path.string(), ": the entry ", entry.name, " is not a plain array"));
    arrays.emplace(entry.name.substr(0, entry.name.size() - kExtension.size()),
                   make_tensor(header->dtype, header->shape, [&](std::byte* out) {
                     std::copy(bytes->begin() + static_cast<std::ptrdiff_t>(header->data), bytes->end(), out);
                   }));
  }
  return arrays;
}

Status write_npz(const Path& path, const Tensors& arrays) {
  std::vector<std::pair<std::string, std::vector<std::byte>>> entries;
  for (const auto& [name, array] : arrays) entries.emplace_back(text(name, kExtension), npy_of(array));
  const auto archive = make_zip(entries);
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(archive.data()), std::ssize(archive));
  file.close();
  if (!file) return input_error(text(path.string(), " can't be written"));
  return Unit{};
}
}  // namespace ctxrt::core
