// Reads Protocol Buffers into structs, more strictly than the library does: what is not declared is refused.
//
// The library skips unknown fields, merges messages that come twice and takes the last of two numbers; so two readers
// can see two graphs in one file. Here a field that is not declared, has another wire type or comes twice without being
// repeated is an error. A message is a struct with a function `describe(message, field)` that calls
// `field(number, member)` for each of its members; the member's type says how it stands on the wire.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "files.h"
#include "result.h"

namespace ctxrt::core {

// Undecoded 32-bit floats; packed ones stay together.
struct Floats {
  std::vector<Bytes> pieces;
  bool repeated = true;
};

class Decoder {
 public:
  // Decodes messages of at most `max_fields` fields and packed integers in all.
  explicit Decoder(std::int64_t max_fields) : fields_left_(max_fields) {}

  // The message that `bytes` hold; false if they are not that message, or have too many fields.
  template <class Message>
  bool decode(Bytes bytes, Message& message) {
    std::uint64_t seen = 0;
    while (!bytes.empty()) {
      Field field{};
      if (!read_field(bytes, field)) return false;
      bool known = false, sound = true;
      describe(message, [&](std::uint64_t number, auto& member) {
        if (number != field.number) return;
        known = true;
        const bool again = (seen >> number & 1U) != 0;
        seen |= std::uint64_t{1} << number;
        sound = again && !is_repeated(member) ? fail("a field comes twice") : take(field, member);
      });
      if (!known) return fail(text("a field ", field.number, " is not supported"));
      if (!sound) return false;
    }
    return true;
  }

  bool too_many_fields() const { return fields_left_ < 0; }
  // What is wrong with the bytes, in words.
  const std::string& problem() const { return problem_; }

 private:
  enum WireType : std::uint8_t { varint = 0, fixed64 = 1, length_delimited = 2, fixed32 = 5 };
  struct Field {
    std::uint64_t number;
    std::uint64_t wire_type;
    std::uint64_t integer;  // of a varint
    Bytes bytes;            // of the others
  };

  template <class Member>
  static bool is_repeated(const Member&) {
    return requires(Member m) { m.emplace_back(); };
  }
  static bool is_repeated(const Floats& floats) { return floats.repeated; }

  bool take(const Field& field, std::int64_t& member);
  bool take(const Field& field, std::vector<std::int64_t>& member);
  bool take(const Field& field, std::string& member);
  bool take(const Field& field, Bytes& member);
  bool take(const Field& field, Floats& member);
  template <class Member>
  bool take(const Field& field, std::vector<Member>& members) {
    return take(field, members.emplace_back());
  }
  template <class Member>
  bool take(const Field& field, std::optional<Member>& member) {
    return take(field, member.emplace());
  }
  template <class Message>
  bool take(const Field& field, Message& message) {
    return has_wire_type(field, length_delimited) && decode(field.bytes, message);
  }

  bool read_field(Bytes& bytes, Field& field);
  bool read_varint(Bytes& bytes, std::uint64_t& number);
  bool has_wire_type(const Field& field, WireType wanted);
  bool count() { return --fields_left_ >= 0; }
  bool fail(std::string problem) {
    problem_ = std::move(problem);
    return false;
  }

  std::int64_t fields_left_;
  std::string problem_;
};

}  // namespace ctxrt::core
