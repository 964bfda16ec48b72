// Files that were hashed once are vouched for by their state, as git's index does it. FORMAT.md says how a record is
// written and when it holds; the Python runtime reads and writes the same.
#pragma once

#include <string>

#include "files.h"

namespace ctxrt::core {

// Whether a file has this sha256, in hexadecimal. If it may be `recorded`, a record that holds will do, and one is
// written where there is none: for numbers, not for code. The error is of the kind `input`: it can't be read.
Result<bool> has_sha256(const Path& path, const std::string& sha256, bool recorded);

}  // namespace ctxrt::core
