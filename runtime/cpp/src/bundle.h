// The folder that ships. A `Bundle` keeps every rule of FORMAT.md, checked before any backend sees a byte.
//
// A bundle never changes in place: a new one is written beside it and renamed. The reader relies on that.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "files.h"
#include "manifest.h"
#include "result.h"
#include "weight_ranges.h"

namespace ctxrt::core {

struct Bundle {
  Path root;  // without links
  Manifest manifest;
  std::string manifest_sha256;                              // of the bytes of manifest.json; it names the bundle
  std::map<std::string, std::vector<StoredTensor>> stored;  // by graph: its tensors in the weight file

  Path path(const std::string& relative) const { return root / relative; }
};

// What is hashed at opening: all but weights that are recorded and have not changed since; all; nothing.
enum class Check { changed, full, sizes };

// Checks the bundle at `path`, which may be a link to it; the error's code says which rule it breaks.
Result<Bundle> open_bundle(const Path& path, Check check = Check::changed);

}  // namespace ctxrt::core
