// Reads `manifest.json` as strictly as FORMAT.md asks.
#pragma once

#include <string_view>

#include "manifest.h"
#include "result.h"

namespace ctxrt::core {

inline constexpr std::size_t kMaxManifestBytes = 4 << 20;

// The manifest of the bytes of `manifest.json`; `manifest-syntax`, `format-unsupported` or `manifest-schema`.
Result<Manifest> parse_manifest(std::string_view data);

}  // namespace ctxrt::core
