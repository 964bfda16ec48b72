// ctxrt_memory BUNDLE COUNT: opens the sessions of the first COUNT buckets and tells the process's PSS in KiB.
#include <fstream>
#include <iostream>
#include <string>

#include "runtime.h"

namespace {

std::int64_t pss_kib() {
  std::ifstream file("/proc/self/smaps_rollup");
  for (std::string word; file >> word;) {
    if (word != "Pss:") continue;
    std::int64_t kib = 0;
    file >> kib;
    return kib;
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const auto runtime = ctxrt::core::Runtime::open(argv[1], {});
  if (!runtime) return 2;
  const auto& buckets = (*runtime)->bundle().manifest.buckets;
  const auto count = std::min<std::size_t>(std::stoul(argv[2]), buckets.size());
  for (std::size_t i = 0; i < count; ++i) {
    if (!(*runtime)->explain(buckets[i].max_length, 1)) return 2;
  }
  std::cout << pss_kib() << "\n";
}
