// The folder that ships. A `Bundle` keeps every rule of FORMAT.md, checked before any backend sees a byte.
//
// A bundle never changes in place: a new one is written beside it and renamed. The reader relies on that.
#pragma once

#include <future>
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
  std::shared_future<Status> weights_hash;                  // the check of the weight file, which may be under way

  // Whether the weight file is known to be the one that the build wrote; waits for the check.
  Status weights_checked() const { return weights_hash.valid() ? weights_hash.get() : Status(Unit{}); }
  Path path(const std::string& relative) const { return root / relative; }
};

// `overlapped` leaves the weight file's hash to a thread of its own: nothing may run before `Bundle::weights_checked`.
// `sizes` leaves out all hashes, for a bundle that this machine has checked before.
enum class Verify { full, overlapped, sizes };

// Checks the bundle at `path`, which may be a link to it; the error's code says which rule it breaks.
Result<Bundle> open_bundle(const Path& path, Verify verify = Verify::full);

}  // namespace ctxrt::core
