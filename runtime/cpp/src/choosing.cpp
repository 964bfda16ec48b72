#include "choosing.h"

#include <algorithm>
#include <array>
#include <cstdio>

namespace ctxrt::core {
namespace {

// Why a bucket is passed over.
struct Obstacle {
  ErrorKind kind;
  std::string reason;
};

std::string shown(double number) {
  std::array<char, 32> digits{};
  std::snprintf(digits.data(), digits.size(), "%.4g", number);
  return digits.data();
}

// What is known of the sub-network of `bucket` at inputs of `length` tokens; null if nothing is.
const QualityRecord* find_quality(const Manifest& manifest, const Bucket& bucket, std::int64_t length) {
  const auto found = std::find_if(manifest.quality.begin(), manifest.quality.end(), [&](const auto& record) {
    return record.subnetwork == bucket.subnetwork && record.min_length <= length && length <= record.max_length;
  });
  return found == manifest.quality.end() ? nullptr : &*found;
}

// Why `bucket` can't run an input of `length` tokens, of which `run_length` run at once.
std::optional<Obstacle> find_obstacle(const Chooser& chooser, const Bucket& bucket, std::int64_t run_length,
                                      std::int64_t length, std::int64_t batch) {
  const auto* known = find_quality(chooser.manifest, bucket, length);
  if (!fits_budget(bucket, Form::unmasked, batch, run_length)) {
    return Obstacle{ErrorKind::memory_budget,
                    text(length, " tokens need more memory in ", bucket.name, " than its budget")};
  }
  const auto latency = known != nullptr ? known->latency_ms : std::nullopt;
  if (bucket.time_budget_ms && latency && *latency > *bucket.time_budget_ms) {
    return Obstacle{ErrorKind::time_budget, text(length, " tokens take longer in ", bucket.name, " than its budget")};
  }
  if (!chooser.floor || (known != nullptr && known->value >= *chooser.floor)) return std::nullopt;
  const auto found =
      known != nullptr ? text("only ", known->metric, " ", shown(known->value)) : std::string("no known quality");
  return Obstacle{ErrorKind::quality,
                  text(length, " tokens have ", found, " in ", bucket.name, ", not ", shown(*chooser.floor))};
}

// The longest single row that some bucket's memory budget takes, in tokens; 0 if none.
std::int64_t longest_within_budget(const std::vector<Bucket>& buckets) {
  std::int64_t longest = 0;
  for (const auto& bucket : buckets) {
    std::int64_t low = bucket.min_length - 1, high = bucket.max_length;
    while (low < high) {
      const std::int64_t middle = (low + high + 1) / 2;
      fits_budget(bucket, Form::unmasked, 1, middle) ? low = middle : high = middle - 1;
    }
    if (low >= bucket.min_length) longest = std::max(longest, low);
  }
  return longest;
}

Error not_good_enough(const Chooser& chooser, std::size_t first, std::int64_t length) {
  const auto& buckets = chooser.manifest.buckets;
  const QualityRecord* best = nullptr;
  std::string found = "not known";
  for (std::size_t i = first; i < buckets.size(); ++i) {
    const auto* known = find_quality(chooser.manifest, buckets[i], length);
    if (known == nullptr || (best != nullptr && known->value <= best->value)) continue;
    best = known;
    found = text(known->metric, " ", shown(known->value), " in ", buckets[i].name);
  }
  return {ErrorKind::quality,
          text(length, " tokens run nowhere with a quality of ", shown(*chooser.floor), ": the best is ", found),
          "lower min_quality, measure the model at this length, or build a bucket with more of the network", ""};
}

// The error where every bucket from the `first` on has an obstacle.
Error refusal(const Chooser& chooser, const std::vector<Obstacle>& obstacles, std::size_t first, std::int64_t length,
              std::int64_t batch) {
  const auto has = [&](ErrorKind kind) {
    return std::any_of(obstacles.begin(), obstacles.end(), [&](const auto& one) { return one.kind == kind; });
  };
  if (has(ErrorKind::quality)) return not_good_enough(chooser, first, length);
  if (has(ErrorKind::time_budget)) {
    return {ErrorKind::time_budget,
            text(length, " tokens take longer than the time budget of every bucket that holds them"),
            "raise time_budget_ms, or build with smaller sub-networks", ""};
  }
  return {ErrorKind::memory_budget,
          text(batch, " x ", length, " tokens need more memory than the budget of every bucket that holds them"),
          text("the longest input that fits is ", longest_within_budget(chooser.manifest.buckets), " tokens"), ""};
}

}  // namespace

Result<Choice> Chooser::choose(std::int64_t length, std::int64_t batch) const {
  const auto& buckets = manifest.buckets;
  const std::size_t first = *find_bucket(buckets, length);
  std::vector<Obstacle> obstacles;
  for (std::size_t i = first; i < buckets.size(); ++i) {
    auto obstacle = find_obstacle(*this, buckets[i], length, length, batch);
    if (obstacle) {
      obstacles.push_back(*std::move(obstacle));
      continue;
    }
    if (!obstacles.empty()) return Choice{&buckets[i], obstacles.front().reason};
    return Choice{&buckets[i], text(length, " tokens fit ", buckets[i].min_length, "..", buckets[i].max_length)};
  }
  return refusal(*this, obstacles, first, length, batch);
}

Status Chooser::check_segments(std::int64_t length) const {
  const Bucket& longest = manifest.buckets.back();
  const auto obstacle = find_obstacle(*this, longest, longest.max_length, length, 1);
  if (!obstacle) return Unit{};
  return refusal(*this, {*obstacle}, manifest.buckets.size() - 1, length, 1);
}

}  // namespace ctxrt::core
