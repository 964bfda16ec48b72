#include "weight_ranges.h"

#include <algorithm>

namespace ctxrt::core {
namespace {

// Every stored tensor starts at a multiple of this many bytes; a slice of one, at a multiple of its element size.
constexpr std::int64_t kAlignment = 64;

std::string named(const StoredTensor& tensor) { return text("tensor '", tensor.name, "' of ", tensor.graph); }

}  // namespace

Status check_ranges(std::vector<StoredTensor> tensors) {
  std::sort(tensors.begin(), tensors.end(), [](const StoredTensor& a, const StoredTensor& b) {
    return a.offset != b.offset ? a.offset < b.offset : a.length > b.length;
  });
  std::vector<const StoredTensor*> holders;
  for (const auto& current : tensors) {
    while (!holders.empty() && holders.back()->end() <= current.offset) holders.pop_back();
    if (!holders.empty() && current.end() > holders.back()->end()) {
      return bundle_error("weight-overlap", text(named(current), " and ", named(*holders.back()),
                                                 " overlap without one holding the other"));
    }
    if (holders.empty() && current.offset % kAlignment != 0) {
      return bundle_error("weight-range",
                          text(named(current), " starts at ", current.offset, ", not a multiple of ", kAlignment));
    }
    holders.push_back(&current);
  }
  return Unit{};
}

}  // namespace ctxrt::core
