// JSON as strictly as FORMAT.md reads it, and objects whose every key is known.
#pragma once

#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>

#include "result.h"

namespace ctxrt::core {

using Json = nlohmann::json;

// The value of a JSON text: UTF-8, no key twice in an object, at most `max_nesting` levels, whole numbers of 64 bits.
// The error is of the kind `input`.
Result<Json> parse_json(std::string_view data, int max_nesting);

// The first problem found while reading a value; reading goes on with stand-ins.
class Problems {
 public:
  void add(const std::string& where, std::string_view what) {
    if (first_.empty()) first_ = where.empty() ? std::string(what) : text(where, ": ", what);
  }
  const std::string& first() const { return first_; }

 private:
  std::string first_;
};

struct Range {
  std::int64_t low = std::numeric_limits<std::int64_t>::min();
  std::int64_t high = std::numeric_limits<std::int64_t>::max();
};

// One value and where it stands, "buckets.1.max_length"; every reader checks the type and tells `problems`.
class Value {
 public:
  Value(const Json& json, std::string where, Problems& problems)
      : json_(&json), where_(std::move(where)), problems_(&problems) {}

  void refuse(std::string_view what) const { problems_->add(where_, what); }
  bool is_null() const { return json_->is_null(); }
  bool is_string() const { return json_->is_string(); }
  std::int64_t integer(Range range = {}) const;
  double number() const;
  bool boolean() const;
  std::string string() const;
  // A string of `min`..`max` characters of UTF-8.
  std::string string(std::size_t min, std::size_t max) const;
  // One of `words`; its index.
  std::size_t choice(std::span<const std::string_view> words) const;
  // The elements of an array of `min`..`max`.
  std::vector<Value> elements(std::size_t min, std::size_t max) const;
  // The entries of an object by key.
  std::vector<std::pair<std::string, Value>> entries() const;

 private:
  friend class Object;
  const Json* json_;
  std::string where_;
  Problems* problems_;
};

// An object whose keys are asked for one by one; `finish` refuses those that nobody asked for.
class Object {
 public:
  explicit Object(const Value& value);

  // The value of a key that must be there; a stand-in of null if it is not.
  Value required(const std::string& key);
  // The value of a key, if it is there.
  std::optional<Value> optional(const std::string& key);
  void finish() const;

 private:
  Value value_;
  std::set<std::string, std::less<>> asked_;
};

}  // namespace ctxrt::core
