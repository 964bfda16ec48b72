#include "system_memory.h"

#include <algorithm>
#include <fstream>
#include <sstream>
#include <string>

namespace ctxrt::core {
namespace {

// The number in a file's line "name number …", or in its only line; none where it is another word, or not there.
std::optional<std::int64_t> number_in(const Path& path, const std::string& name = "") {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string first;
    if (!name.empty() && (!(words >> first) || first != name)) continue;
    std::int64_t number = 0;
    return words >> number ? std::optional(number) : std::nullopt;
  }
  return std::nullopt;
}

}  // namespace

std::optional<std::int64_t> available_bytes(const Path& root) {
  auto available = number_in(root / "proc/meminfo", "MemAvailable:");
  if (available) *available *= 1024;
  const Path group = root / "sys/fs/cgroup";
  const auto limit = number_in(group / "memory.max"), used = number_in(group / "memory.current");
  if (!limit || !used) return available;
  const std::int64_t reclaimable = number_in(group / "memory.stat", "inactive_file").value_or(0);
  const std::int64_t left = std::max<std::int64_t>(*limit - *used + reclaimable, 0);
  return std::min(left, available.value_or(left));
}

}  // namespace ctxrt::core
