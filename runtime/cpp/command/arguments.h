// The command line: one word for the command, the bundle, and options.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "result.h"

namespace ctxrt::command {

struct Option {
  std::string name;      // "--input"
  std::string argument;  // what the help calls its value; empty for a switch
  std::string help;
};

struct Arguments {
  std::string bundle;
  std::multimap<std::string, std::string> options;

  bool has(const std::string& name) const { return options.contains(name); }
  std::optional<std::string> find(const std::string& name) const;
  std::vector<std::string> all(const std::string& name) const;
  // The number of an option; none where it is not given.
  core::Result<std::optional<double>> decimal(const std::string& name) const;
  // The whole number of an option, at least `least`; none where it is not given.
  core::Result<std::optional<std::int64_t>> whole(const std::string& name, std::int64_t least) const;
  // The whole number of an option, at least 1; `fallback` where it is not given.
  core::Result<std::int64_t> number(const std::string& name, std::int64_t fallback) const;
};

// Whole numbers from `least`, with commas: "16,128,512".
core::Result<std::vector<std::int64_t>> parse_numbers(const std::string& list, std::int64_t least = 1);

// Reads what follows the command's name.
core::Result<Arguments> parse_arguments(const std::vector<std::string>& words, const std::vector<Option>& known);

}  // namespace ctxrt::command
