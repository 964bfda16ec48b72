// Length -> bucket, with the reason: the smallest that holds an input, within its budgets, and good enough.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "manifest.h"
#include "result.h"

namespace ctxrt::core {

struct Choice {
  const Bucket* bucket;
  std::string reason;
};

// Chooses among the buckets of a bundle.
struct Chooser {
  const Manifest& manifest;
  std::optional<double> floor;  // the least quality that an input is run with; none: any

  // The smallest bucket that holds `length` tokens, at most the longest bucket's, whose memory budget takes `batch`
  // rows of them, whose latency in the table of quality is within its time budget, and whose quality there is at least
  // `floor`. `memory_budget`, `time_budget` or `quality` if there is none.
  Result<Choice> choose(std::int64_t length, std::int64_t batch) const;
  // Refuses, likewise, a row of `length` tokens that the longest bucket may not run in segments which the model fuses;
  // the quality is that of the whole row.
  Status check_segments(std::int64_t length) const;
};

}  // namespace ctxrt::core
