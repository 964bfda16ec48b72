#include "parity.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace ctxrt::core {
namespace {

constexpr double kInfinite = std::numeric_limits<double>::infinity();
constexpr double kSmallestReference = 1e-3;

// One row without its padding.
Tensor cropped(const Tensor& array, const OutputSpec& spec, std::size_t row, std::int64_t length) {
  Tensor one = row_of(array, row);
  const auto axis = spec.length_axis();
  return axis ? slice(one, *axis - 1, 0, std::min(length, one.shape[*axis - 1])) : one;
}

double cosine_of(const std::vector<double>& a, const std::vector<double>& b) {
  double product = 0, square_a = 0, square_b = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    product += a[i] * b[i];
    square_a += a[i] * a[i];
    square_b += b[i] * b[i];
  }
  const double norms = std::sqrt(square_a) * std::sqrt(square_b);
  if (norms != 0) return product / norms;
  return a == b ? 1 : 0;
}

struct Hits {
  std::int64_t equal = 0, total = 0;
};

// Adds how often the largest of the last axis stands at the same place.
void count_top1(const std::vector<double>& a, const std::vector<double>& b, std::int64_t width, Hits& hits) {
  for (std::int64_t start = 0; start + width <= std::ssize(a) && width > 0; start += width, ++hits.total) {
    const auto best = [&](const auto& numbers) {
      const auto row = numbers.begin() + start;
      return std::max_element(row, row + width) - row;
    };
    hits.equal += best(a) == best(b) ? 1 : 0;
  }
}

void compare_row(const Tensor& expected, const Tensor& actual, ParityCase& measured, Hits& hits) {
  const auto a = to_doubles(actual), b = to_doubles(expected);
  const auto finite = [](const auto& numbers) {
    return std::all_of(numbers.begin(), numbers.end(), [](double n) { return std::isfinite(n); });
  };
  if (actual.shape != expected.shape || !finite(a) || !finite(b)) {
    measured.max_abs = measured.max_rel = kInfinite;
    measured.cosine = -1;
    return;
  }
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double difference = std::fabs(a[i] - b[i]);
    measured.max_abs = std::max(measured.max_abs, difference);
    measured.max_rel = std::max(measured.max_rel, difference / std::max(std::fabs(b[i]), kSmallestReference));
  }
  measured.cosine = std::min(measured.cosine, cosine_of(a, b));
  count_top1(a, b, actual.shape.empty() ? 1 : actual.shape.back(), hits);
}

}  // namespace

std::int64_t ParityCase::length() const { return *std::max_element(lengths.begin(), lengths.end()); }

bool ParityReport::passed() const {
  return !cases.empty() && unverified.empty() &&
         std::all_of(cases.begin(), cases.end(), [](const auto& one) { return one.passed; });
}

void compare(const Tensors& expected, const Tensors& actual, const std::vector<OutputSpec>& outputs,
             ParityCase& measured) {
  for (const auto& spec : outputs) {
    Hits hits;
    for (std::size_t row = 0; row < measured.lengths.size(); ++row) {
      compare_row(cropped(expected.at(spec.name), spec, row, measured.lengths[row]),
                  cropped(actual.at(spec.name), spec, row, measured.lengths[row]), measured, hits);
    }
    const double share = hits.total == 0 ? 0 : static_cast<double>(hits.equal) / static_cast<double>(hits.total);
    measured.top1 = std::min(measured.top1, share);
  }
  measured.passed = measured.max_abs <= measured.tolerance.max_abs && measured.cosine >= measured.tolerance.min_cosine;
}

}  // namespace ctxrt::core
