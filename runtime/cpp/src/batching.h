// Which rows run together: a batch is of one bucket, sorted by length, within its batch, padding and memory limits.
#pragma once

#include <string>
#include <vector>

#include "manifest.h"
#include "padding.h"

namespace ctxrt::core {

// A row that fits a bucket: a whole input, or one window of a longer one.
struct Job {
  Row row;
  const Bucket* bucket;
  bool alone;          // windows are faster and take less memory one by one on a CPU
  std::string reason;  // why this bucket, in words
};

// Indices of `jobs` that run together; every index stands in one batch. Where padding is not allowed, only rows of
// equal length share one.
std::vector<std::vector<std::size_t>> form_batches(const std::vector<Job>& jobs, bool may_pad);

}  // namespace ctxrt::core
