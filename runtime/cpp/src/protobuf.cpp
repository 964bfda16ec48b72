#include "protobuf.h"

#include "utf8.h"

namespace ctxrt::core {

bool Decoder::read_varint(Bytes& bytes, std::uint64_t& number) {
  number = 0;
  for (unsigned shift = 0; shift < 70; shift += 7) {
    if (bytes.empty()) return fail("it ends inside a number");
    const auto byte = std::to_integer<std::uint64_t>(bytes.front());
    bytes = bytes.subspan(1);
    if (shift == 63 && (byte & 0x7fU) > 1) break;
    number |= (byte & 0x7fU) << shift;
    if (byte < 0x80) return true;
  }
  return fail("a number of more than 64 bits");
}

bool Decoder::read_field(Bytes& bytes, Field& field) {
  std::uint64_t tag = 0, size = 0;
  if (!count() || !read_varint(bytes, tag)) return false;
  field.number = tag >> 3U;
  field.wire_type = tag & 7U;
  switch (field.wire_type) {
    case varint:
      return read_varint(bytes, field.integer);
    case length_delimited:
      if (!read_varint(bytes, size)) return false;
      break;
    case fixed32:
      size = 4;
      break;
    case fixed64:
      size = 8;
      break;
    default:
      return fail(text("wire type ", field.wire_type, " is not supported"));
  }
  if (size > bytes.size()) return fail(text("a field of ", size, " bytes where ", bytes.size(), " are left"));
  field.bytes = bytes.first(size);
  bytes = bytes.subspan(size);
  return true;
}

bool Decoder::has_wire_type(const Field& field, WireType wanted) {
  return field.wire_type == wanted || fail(text("field ", field.number, " has wire type ", field.wire_type));
}

bool Decoder::take(const Field& field, std::int64_t& member) {
  member = static_cast<std::int64_t>(field.integer);
  return has_wire_type(field, varint);
}

bool Decoder::take(const Field& field, std::vector<std::int64_t>& member) {
  if (field.wire_type != length_delimited) return take(field, member.emplace_back());
  for (Bytes left = field.bytes; !left.empty();) {
    std::uint64_t number = 0;
    if (!count() || !read_varint(left, number)) return false;
    member.push_back(static_cast<std::int64_t>(number));
  }
  return true;
}

bool Decoder::take(const Field& field, std::string& member) {
  if (!has_wire_type(field, length_delimited)) return false;
  member.assign(reinterpret_cast<const char*>(field.bytes.data()), field.bytes.size());
  if (!is_utf8(member)) return fail(text("field ", field.number, " is not UTF-8"));
  return member.find('\0') == std::string::npos || fail(text("field ", field.number, " holds a NUL byte"));
}

bool Decoder::take(const Field& field, Bytes& member) {
  member = field.bytes;
  return has_wire_type(field, length_delimited);
}

bool Decoder::take(const Field& field, Floats& member) {
  const bool packed = member.repeated && field.wire_type == length_delimited;
  if (!packed && !has_wire_type(field, fixed32)) return false;
  member.pieces.push_back(field.bytes);
  return field.bytes.size() % 4 == 0 || fail(text("field ", field.number, " holds part of a float"));
}

}  // namespace ctxrt::core
