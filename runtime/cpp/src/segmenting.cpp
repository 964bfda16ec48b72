#include "segmenting.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace ctxrt::core {
namespace {

using Numbers = std::vector<double>;

constexpr double kSmallestNorm = 1e-12;

double dot(const Numbers& a, const Numbers& b) { return std::inner_product(a.begin(), a.end(), b.begin(), 0.0); }

std::vector<std::int64_t> window_indices(std::int64_t length, std::int64_t start, std::int64_t content,
                                         Framing framing) {
  std::vector<std::int64_t> indices(framing.prefix + content + framing.suffix);
  const auto body = indices.begin() + framing.prefix, tail = body + content;
  std::iota(indices.begin(), body, 0);
  std::iota(body, tail, framing.prefix + start);
  std::iota(tail, indices.end(), length - framing.suffix);
  return indices;
}

Tensor join_tokens(const SegmentPlan& plan, std::span<const Tensor> outputs, std::size_t axis) {
  std::vector<Tensor> parts{slice(outputs.front(), axis, 0, plan.prefix)};
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    const auto& segment = plan.segments[i];
    const std::int64_t shift = plan.prefix - segment.start;
    parts.push_back(slice(outputs[i], axis, segment.owned_start + shift, segment.owned_stop + shift));
  }
  const std::int64_t window = outputs.back().shape[axis];
  parts.push_back(slice(outputs.back(), axis, window - plan.suffix, window));
  return concatenate(parts, axis);
}

Numbers largest(const std::vector<Numbers>& rows) {
  Numbers out = rows.front();
  for (const auto& row : rows) {
    // A NaN stays a NaN, as in numpy.
    std::transform(out.begin(), out.end(), row.begin(), out.begin(),
                   [](double a, double b) { return std::isnan(a) || a >= b ? a : b; });
  }
  return out;
}

Numbers weighted_mean(const std::vector<Numbers>& rows, const Numbers& weights) {
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  Numbers out(rows.front().size(), 0.0);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const double weight = weights[i] / total;
    for (std::size_t j = 0; j < out.size(); ++j) out[j] += weight * rows[i][j];
  }
  return out;
}

// Softmax over windows of the cosine between each row and their weighted mean.
Numbers closeness(const std::vector<Numbers>& rows, const Numbers& weights) {
  const Numbers mean = weighted_mean(rows, weights);
  const double mean_norm = std::sqrt(dot(mean, mean));
  Numbers shares;
  for (const auto& row : rows) {
    shares.push_back(dot(row, mean) / std::max(std::sqrt(dot(row, row)) * mean_norm, kSmallestNorm));
  }
  const double highest = *std::max_element(shares.begin(), shares.end());
  for (auto& share : shares) share = std::exp(share - highest);
  const double total = std::accumulate(shares.begin(), shares.end(), 0.0);
  for (auto& share : shares) share /= total;
  return shares;
}

// Brings every vector along the last axis to unit length.
void normalize(Numbers& numbers, std::size_t width) {
  for (auto row = numbers.begin(); row != numbers.end(); row += static_cast<std::ptrdiff_t>(width)) {
    const double norm = std::max(std::sqrt(std::inner_product(row, row + width, row, 0.0)), kSmallestNorm);
    std::for_each(row, row + width, [norm](double& number) { number /= norm; });
  }
}

}  // namespace

Framing find_framing(const Tensor& tokens, const SpecialTokens& special_tokens) {
  const auto& [prefix, suffix] = special_tokens;
  const Numbers ids = to_doubles(tokens);
  if (ids.size() < prefix.size() + suffix.size()) return {};
  const auto same = [](std::int64_t a, double b) { return static_cast<double>(a) == b; };
  const bool framed = std::equal(prefix.begin(), prefix.end(), ids.begin(), same) &&
                      std::equal(suffix.begin(), suffix.end(), ids.end() - std::ssize(suffix), same);
  if (!framed) return {};
  return {std::ssize(prefix), std::ssize(suffix)};
}

SegmentPlan plan_segments(std::int64_t length, std::int64_t window, std::int64_t overlap, Framing framing) {
  const std::int64_t content = window - framing.prefix - framing.suffix;
  const std::int64_t total = length - framing.prefix - framing.suffix;
  const std::int64_t step = content - overlap, gaps = (total - content + step - 1) / step;
  std::vector<std::int64_t> starts;
  for (std::int64_t index = 0; index <= gaps; ++index) starts.push_back(index * (total - content) / gaps);
  SegmentPlan plan{{}, framing.prefix, framing.suffix};
  std::int64_t cut = 0;
  for (std::size_t i = 0; i < starts.size(); ++i) {
    const bool last = i + 1 == starts.size();
    const std::int64_t stop = last ? total : starts[i + 1] + (starts[i] + content - starts[i + 1] + 1) / 2;
    plan.segments.push_back({starts[i], cut, stop, window_indices(length, starts[i], content, framing)});
    cut = stop;
  }
  return plan;
}

Tensor fuse(const SegmentPlan& plan, std::span<const Tensor> outputs, const OutputSpec& spec) {
  if (spec.fusion == Fusion::concat) return join_tokens(plan, outputs, spec.length_axis().value_or(1) - 1);
  std::vector<Numbers> rows;
  for (const auto& output : outputs) rows.push_back(to_doubles(output));
  Numbers weights;
  for (const auto& segment : plan.segments)
    weights.push_back(static_cast<double>(segment.owned_stop - segment.owned_start));
  if (spec.fusion == Fusion::attention) {
    const Numbers shares = closeness(rows, weights);
    std::transform(weights.begin(), weights.end(), shares.begin(), weights.begin(), std::multiplies<>());
  }
  Numbers fused = spec.fusion == Fusion::max ? largest(rows) : weighted_mean(rows, weights);
  const auto& shape = outputs.front().shape;
  if (spec.normalized) normalize(fused, shape.empty() ? 1 : static_cast<std::size_t>(shape.back()));
  return from_doubles(fused, outputs.front().dtype, shape);
}

}  // namespace ctxrt::core
