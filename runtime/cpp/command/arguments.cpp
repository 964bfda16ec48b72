#include "arguments.h"

#include <algorithm>
#include <charconv>
#include <cmath>

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

Result<std::int64_t> Arguments::number(const std::string& name, std::int64_t fallback) const {
  const auto given = find(name);
  if (!given) return fallback;
  std::int64_t number = 0;
  const auto [end, failure] = std::from_chars(given->data(), given->data() + given->size(), number);
  if (failure != std::errc() || end != given->data() + given->size() || number < 1) {
    return input_error(text(name, " takes a whole number from 1, not '", *given, "'"));
  }
  return number;
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
