#include "arguments.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <sstream>

namespace ctxrt::command {

using core::input_error;
using core::Result;
using core::text;

std::optional<std::string> Arguments::find(const std::string& name) const {
  const auto found = options.find(name);
  if (found == options.end()) return std::nullopt;
  return found->second;
}

std::vector<std::string> Arguments::all(const std::string& name) const {
  std::vector<std::string> values;
  const auto [first, last] = options.equal_range(name);
  for (auto option = first; option != last; ++option) values.push_back(option->second);
  return values;
}

Result<std::optional<double>> Arguments::decimal(const std::string& name) const {
  const auto given = find(name);
  if (!given) return std::optional<double>();
  double number = 0;
  const auto [end, failure] = std::from_chars(given->data(), given->data() + given->size(), number);
  if (failure != std::errc() || end != given->data() + given->size() || !std::isfinite(number)) {
    return input_error(text(name, " takes a number, not '", *given, "'"));
  }
  return std::optional(number);
}

Result<std::optional<std::int64_t>> Arguments::whole(const std::string& name, std::int64_t least) const {
  const auto given = find(name);
  if (!given) return std::optional<std::int64_t>();
  std::int64_t number = 0;
  const auto [end, failure] = std::from_chars(given->data(), given->data() + given->size(), number);
  if (failure != std::errc() || end != given->data() + given->size() || number < least) {
    return input_error(text(name, " takes a whole number from ", least, ", not '", *given, "'"));
  }
  return std::optional(number);
}

Result<std::int64_t> Arguments::number(const std::string& name, std::int64_t fallback) const {
  CTXRT_ASSIGN(const auto given, whole(name, 1));
  return given.value_or(fallback);
}

Result<std::vector<std::int64_t>> parse_numbers(const std::string& list, std::int64_t least) {
  std::vector<std::int64_t> numbers;
  std::istringstream parts(list);
  for (std::string part; std::getline(parts, part, ',');) {
    std::int64_t number = 0;
    const auto [end, failure] = std::from_chars(part.data(), part.data() + part.size(), number);
    if (failure != std::errc() || end != part.data() + part.size() || number < least ||
        number > std::int64_t{1} << 31) {
      return input_error(text("expected whole numbers from ", least, ", with commas, not '", list, "'"));
    }
    numbers.push_back(number);
  }
  if (numbers.empty()) return input_error("expected at least one number");
  return numbers;
}

Result<Arguments> parse_arguments(const std::vector<std::string>& words, const std::vector<Option>& known) {
  Arguments arguments;
  for (auto word = words.begin(); word != words.end(); ++word) {
    if (!word->starts_with("--")) {
      if (!arguments.bundle.empty()) return input_error(text("one bundle is enough: '", *word, "'"));
      arguments.bundle = *word;
      continue;
    }
    const auto option = std::find_if(known.begin(), known.end(), [&](const auto& one) { return one.name == *word; });
    if (option == known.end()) return input_error(text("unknown option ", *word), "ctxrt --help lists the options");
    const bool takes_value = !option->argument.empty();
    if (takes_value && std::next(word) == words.end()) return input_error(*word + " needs a value");
    arguments.options.emplace(option->name, takes_value ? *++word : "");
  }
  if (arguments.bundle.empty()) return input_error("the bundle's folder is missing", "ctxrt --help shows an example");
  return arguments;
}

}  // namespace ctxrt::command
