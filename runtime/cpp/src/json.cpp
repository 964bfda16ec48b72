#include "json.h"

#include <algorithm>

namespace ctxrt::core {
namespace {

// Builds the value, and stops at what plain JSON readers let pass.
class StrictBuilder : public nlohmann::detail::json_sax_dom_parser<Json> {
  using Base = nlohmann::detail::json_sax_dom_parser<Json>;

 public:
  StrictBuilder(Json& root, std::string& problem) : Base(root, false), problem_(&problem) {}

  bool start_object(std::size_t size) {
    keys_.emplace_back();
    return Base::start_object(size);
  }
  bool end_object() {
    keys_.pop_back();
    return Base::end_object();
  }
  bool key(std::string& name) {
    return keys_.back().insert(name).second ? Base::key(name) : stop(text("the key '", name, "' comes twice"));
  }
  bool number_unsigned(std::uint64_t number) {
    if (number > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) return stop_at_integer();
    return Base::number_integer(static_cast<std::int64_t>(number));
  }
  bool number_float(double number, const std::string& digits) {
    const bool whole = digits.find_first_of(".eE") == std::string::npos;  // too large for the parser
    return whole ? stop_at_integer() : Base::number_float(number, digits);
  }
  bool parse_error(std::size_t /*position*/, const std::string& /*token*/, const nlohmann::detail::exception& error) {
    return stop(error.what());
  }

 private:
  bool stop(std::string what) {
    *problem_ = std::move(what);
    return false;
  }
  bool stop_at_integer() { return stop("a number is not a 64-bit integer"); }

  std::string* problem_;
  std::vector<std::set<std::string>> keys_;
};

// Counts brackets outside strings, before the parser's recursion or memory can.
bool nests_more_than(std::string_view data, int levels) {
  int depth = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < data.size(); ++i) {
    const char c = data[i];
    if (in_string && c == '\\') {
      ++i;
    } else if (c == '"') {
      in_string = !in_string;
    } else if (!in_string) {
      depth += static_cast<int>(c == '[' || c == '{') - static_cast<int>(c == ']' || c == '}');
      if (depth > levels) return true;
    }
  }
  return false;
}

}  // namespace

Result<Json> parse_json(std::string_view data, int max_nesting) {
  if (data.starts_with("\xef\xbb\xbf")) return input_error("it starts with a byte order mark");
  if (data.find('\0') != std::string_view::npos) return input_error("it holds a NUL byte");
  if (nests_more_than(data, max_nesting)) return input_error(text("it nests more than ", max_nesting, " levels"));
  Json root;
  std::string problem;
  StrictBuilder builder(root, problem);
  if (!Json::sax_parse(data.begin(), data.end(), &builder)) return input_error(problem);
  return root;
}

std::int64_t Value::integer(Range range) const {
  if (!json_->is_number_integer()) {
    refuse("expected an integer");
    return 0;
  }
  const auto number = json_->get<std::int64_t>();
  if (number < range.low) refuse(text("expected at least ", range.low, ", got ", number));
  if (number > range.high) refuse(text("expected at most ", range.high, ", got ", number));
  return number;
}

double Value::number() const {
  if (json_->is_number()) return json_->get<double>();
  refuse("expected a number");
  return 0;
}

bool Value::boolean() const {
  if (json_->is_boolean()) return json_->get<bool>();
  refuse("expected true or false");
  return false;
}

std::string Value::string() const {
  if (json_->is_string()) return json_->get<std::string>();
  refuse("expected a string");
  return "";
}

std::string Value::string(std::size_t min, std::size_t max) const {
  auto characters = string();
  const auto continues = [](char c) { return (static_cast<unsigned char>(c) & 0xc0U) == 0x80U; };
  const std::size_t count = characters.size() - std::count_if(characters.begin(), characters.end(), continues);
  if (count < min || count > max) refuse(text("expected ", min, " to ", max, " characters, got ", count));
  return characters;
}

std::size_t Value::choice(std::span<const std::string_view> words) const {
  const auto found =
      json_->is_string() ? std::find(words.begin(), words.end(), json_->get_ref<const std::string&>()) : words.end();
  if (found != words.end()) return found - words.begin();
  std::string known;
  for (const auto word : words) known += text(known.empty() ? "" : ", ", word);
  refuse("expected one of " + known);
  return 0;
}

std::vector<Value> Value::elements(std::size_t min, std::size_t max) const {
  std::vector<Value> out;
  if (!json_->is_array()) {
    refuse("expected an array");
    return out;
  }
  if (json_->size() < min || json_->size() > max) {
    refuse(text("expected ", min, " to ", max, " elements, got ", json_->size()));
    return out;
  }
  for (std::size_t i = 0; i < json_->size(); ++i)
    out.emplace_back((*json_)[i], text(where_.empty() ? "" : where_ + ".", i), *problems_);
  return out;
}

std::vector<std::pair<std::string, Value>> Value::entries() const {
  std::vector<std::pair<std::string, Value>> out;
  if (!json_->is_object()) {
    refuse("expected an object");
    return out;
  }
  for (const auto& [key, json] : json_->items()) out.emplace_back(key, Value(json, text(where_, ".", key), *problems_));
  return out;
}

Object::Object(const Value& value) : value_(value) {
  if (!value.json_->is_object()) value.refuse("expected an object");
}

Value Object::required(const std::string& key) {
  static const Json null;
  auto found = optional(key);
  if (found) return *found;
  value_.problems_->add(value_.where_.empty() ? key : text(value_.where_, ".", key), "is missing");
  return {null, key, *value_.problems_};
}

std::optional<Value> Object::optional(const std::string& key) {
  asked_.insert(key);
  if (!value_.json_->is_object() || !value_.json_->contains(key)) return std::nullopt;
  return Value((*value_.json_)[key], value_.where_.empty() ? key : text(value_.where_, ".", key), *value_.problems_);
}

void Object::finish() const {
  for (const auto& [key, value] : value_.entries()) {
    if (!asked_.contains(key)) value.refuse("is not a key that is known here");
  }
}

}  // namespace ctxrt::core
