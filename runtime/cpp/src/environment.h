// Environment variables.
#pragma once

#include <cstdlib>
#include <string>

namespace ctxrt::core {

// Empty where it is not set.
inline std::string from_environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

}  // namespace ctxrt::core
