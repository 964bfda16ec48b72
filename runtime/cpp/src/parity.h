// What counts as the same answer, and the golden vectors of a bundle run on this machine.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "dispatch.h"
#include "manifest.h"
#include "tensor.h"

namespace ctxrt::core {

// How far one run of a bucket's graph is from the expected outputs, over all outputs and rows.
struct ParityCase {
  std::string bucket;
  Form form = Form::masked;
  std::vector<std::int64_t> lengths;  // the true length of each row, in tokens
  std::int64_t padded_to = 0;
  double max_abs = 0, max_rel = 0;  // max_rel: |a - b| / max(|b|, 1e-3)
  double cosine = 1;                // smallest of a row's flattened output
  double top1 = 1;                  // share of equal argmax over the last axis
  Tolerance tolerance;
  bool passed = false;

  std::int64_t length() const;
};

struct ParityReport {
  std::vector<ParityCase> cases;
  std::map<std::string, std::string> unverified;  // buckets that could not run here, with the reason

  bool passed() const;
};

// Fills in the figures of `measured`, whose lengths and tolerance are set: `outputs` (batch, …) row by row, over each
// row's own length. A number that is not finite, or another shape, is a failure.
void compare(const Tensors& expected, const Tensors& actual, const std::vector<OutputSpec>& outputs,
             ParityCase& measured);

// Runs the golden vectors of every bucket on the backends that serve it here.
Result<ParityReport> verify(const Bundle& bundle, const DispatcherOptions& options);

}  // namespace ctxrt::core
