// What memory the system has left, so that work is refused before it is taken and not by the kernel after.
#pragma once

#include <cstdint>
#include <optional>

#include "files.h"

namespace ctxrt::core {

// Bytes that this process can take without swapping; none where the system does not say. On Linux the smaller of what
// the kernel reckons it can give (MemAvailable), and of what the limit of the process's control group leaves (version
// 2), such as a container's. `root` is that of the file system.
std::optional<std::int64_t> available_bytes(const Path& root = "/");

}  // namespace ctxrt::core
