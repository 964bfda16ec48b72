// Compares a bundle's folder with the manifest's list of files.
#pragma once

#include <string>
#include <string_view>

#include "files.h"
#include "manifest.h"
#include "result.h"

namespace ctxrt::core {

inline constexpr std::string_view kManifestName = "manifest.json";

// `link`, unless `path` is a regular file with one name; `name` is what errors call it.
Status check_plain(const Path& path, const std::string& name);

// Every listed path is one that a bundle may have: `path-unsafe`.
Status check_listed_paths(const Manifest& manifest);

// Every file, nothing else, no links, the right sizes.
Status check_tree(const Path& root, const Manifest& manifest);

}  // namespace ctxrt::core
