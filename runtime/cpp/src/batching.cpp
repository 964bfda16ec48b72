#include "batching.h"

#include <algorithm>
#include <numeric>
#include <tuple>

namespace ctxrt::core {
namespace {

// A batch is closed before its padding grows beyond this share of its tokens.
constexpr double kMaxPadding = 0.25;

// Whether `job`, which is at least as long as the members of `batch`, may run with them.
bool may_join(const std::vector<Job>& jobs, const std::vector<std::size_t>& batch, const Job& job, bool may_pad) {
  const auto& first = jobs[batch.front()];
  const std::int64_t longest = job.row.length, count = std::ssize(batch) + 1;
  if (job.alone || first.alone || job.bucket != first.bucket || count > job.bucket->batch.max) return false;
  std::int64_t missing = 0;
  for (const auto member : batch) missing += longest - jobs[member].row.length;
  if (missing == 0) return fits_budget(*job.bucket, Form::unmasked, count, longest);
  const bool within = static_cast<double>(missing) <= kMaxPadding * static_cast<double>(longest * count);
  return may_pad && within && fits_budget(*job.bucket, Form::masked, count, longest);
}

}  // namespace

std::vector<std::vector<std::size_t>> form_batches(const std::vector<Job>& jobs, bool may_pad) {
  std::vector<std::size_t> order(jobs.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return std::tuple(jobs[a].bucket->max_length, jobs[a].row.length) <
           std::tuple(jobs[b].bucket->max_length, jobs[b].row.length);
  });
  std::vector<std::vector<std::size_t>> batches;
  for (const auto index : order) {
    if (!batches.empty() && may_join(jobs, batches.back(), jobs[index], may_pad)) {
      batches.back().push_back(index);
    } else {
      batches.push_back({index});
    }
  }
  return batches;
}

}  // namespace ctxrt::core
