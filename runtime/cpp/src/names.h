// Names of tensors, tasks and targets: 1 to 256 of A-Z a-z 0-9 _ . : / -
#pragma once

#include <algorithm>
#include <string_view>

namespace ctxrt::core {

inline bool is_alphanumeric(char c) {
  return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

inline bool is_name(std::string_view name) {
  const auto allowed = [](char c) {
    return is_alphanumeric(c) || std::string_view("_.:/-").find(c) != std::string_view::npos;
  };
  return !name.empty() && name.size() <= 256 && std::all_of(name.begin(), name.end(), allowed);
}

}  // namespace ctxrt::core
