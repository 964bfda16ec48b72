// Where a device keeps what it computed for itself: the same folder as the Python runtime's.
#pragma once

#include <filesystem>

#include "environment.h"

namespace ctxrt::core {

// `$CTX_RUNTIME_CACHE`, else `$XDG_CACHE_HOME/ctx-runtime`, else `~/.cache/ctx-runtime`; empty for a user without home.
inline std::filesystem::path cache_root() {
  if (auto configured = from_environment("CTX_RUNTIME_CACHE"); !configured.empty()) return configured;
  if (const std::filesystem::path caches = from_environment("XDG_CACHE_HOME"); !caches.empty())
    return caches / "ctx-runtime";
  const std::filesystem::path home = from_environment("HOME");
  return home.empty() ? home : home / ".cache" / "ctx-runtime";
}

}  // namespace ctxrt::core
