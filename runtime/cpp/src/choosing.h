// Length -> bucket, with the reason: the smallest that holds an input, within its budgets, and good enough.
#pragma once

#include <cstdint>
#include <string>

#include "manifest.h"
#include "result.h"

namespace ctxrt::core {

struct Choice {
  const Bucket* bucket;
  std::string reason;
};

// What is known of the sub-network of `bucket` at inputs of `length` tokens; null if nothing is.
const QualityRecord* find_quality(const Manifest& manifest, const Bucket& bucket, std::int64_t length);

// The smallest bucket that holds `length` tokens, at most the longest bucket's, whose memory budget takes `batch` rows
// of them, whose latency in the table of quality is within its time budget, and whose quality there is at least
// `min_quality`. `memory_budget`, `time_budget` or `quality` if there is none.
Result<Choice> choose_bucket(const Manifest& manifest, std::int64_t length, std::int64_t batch);

}  // namespace ctxrt::core
