#include "ladder.h"

#include <algorithm>
#include <array>
#include <cstdio>

namespace ctxrt::core {
namespace {

std::string megabytes(std::int64_t bytes) {
  std::array<char, 32> digits{};
  std::snprintf(digits.data(), digits.size(), "%.1f MB", static_cast<double>(bytes) / 1e6);
  return digits.data();
}

}  // namespace

Ladder::Ladder(const Manifest& manifest, std::int64_t rows, std::optional<std::int64_t> available)
    : manifest_(manifest), rows_(rows), available_(available) {
  for (const auto& bucket : manifest.buckets) {
    if (!refusal(bucket)) affordable_.push_back(&bucket);
  }
}

std::int64_t Ladder::bytes_in(const Bucket& bucket) const {
  const auto& decoder = *manifest_.decoder;
  const double step = bucket.activation.bytes_for(1, std::min(decoder.chunk, bucket.max_length));
  return decoder.cache_bytes(rows_, bucket.max_length) + static_cast<std::int64_t>(step);
}

Result<Choice> Ladder::choose(std::int64_t prompt, std::optional<std::int64_t> fresh) const {
  const std::int64_t wanted = fresh.value_or(manifest_.decoder->reserve);
  CTXRT_CHECK(check_length(prompt, fresh.value_or(1)));
  auto fitting = std::find_if(affordable_.begin(), affordable_.end(),
                              [&](const Bucket* bucket) { return bucket->max_length >= prompt + wanted; });
  if (fitting == affordable_.end()) {
    CTXRT_CHECK(check_memory(prompt + fresh.value_or(1)));
    --fitting;
  }
  return Choice{*fitting, text(prompt, " tokens and ", wanted, fresh ? " new" : " in reserve", ": ",
                               megabytes(bytes_in(**fitting)), " in ", (*fitting)->name)};
}

const Bucket* Ladder::after(const Bucket& bucket) const {
  const auto next = std::find_if(affordable_.begin(), affordable_.end(),
                                 [&](const Bucket* other) { return other->max_length > bucket.max_length; });
  return next == affordable_.end() ? nullptr : *next;
}

std::int64_t Ladder::limit(std::int64_t prompt) const {
  const std::int64_t capacity = affordable_.back()->max_length, room = capacity - prompt;
  const bool may_slide = slides() && capacity >= manifest_.decoder->sinks + 2;
  return may_slide ? std::max(room, manifest_.decoder->reserve) : room;
}

Status Ladder::check_length(std::int64_t prompt, std::int64_t fresh) const {
  const std::int64_t longest = manifest_.max_length();
  if (prompt < 1) return input_error("the prompt is empty", "give at least one token");
  if (fresh <= longest - prompt || slides()) return Unit{};
  return Error{ErrorKind::too_long,
               text("a prompt of ", prompt, " tokens and ", fresh, " new ones are more than the ", longest,
                    " that the bundle takes"),
               "shorten it, or build with the overflow policy `sliding`", ""};
}

// Refuses a text that fits no affordable bucket although the bundle has one for it, or has none at all.
Status Ladder::check_memory(std::int64_t needed) const {
  const std::int64_t most = affordable_.empty() ? 0 : affordable_.back()->max_length;
  if (most > 0 && (needed <= most || most == manifest_.max_length())) return Unit{};
  const auto& bucket = manifest_.buckets[find_bucket(manifest_.buckets, needed).value_or(manifest_.buckets.size() - 1)];
  return Error{
      ErrorKind::memory_budget,
      text(rows_, " x ", needed, " tokens take ", bytes_in(bucket), " bytes in ", bucket.name, ", ", *refusal(bucket)),
      text("the largest context that fits is ", most, " tokens"), ""};
}

// Why a bucket may not take its memory; none: it may.
std::optional<std::string> Ladder::refusal(const Bucket& bucket) const {
  const std::int64_t needed = bytes_in(bucket);
  if (bucket.memory_budget && needed > *bucket.memory_budget) return text("its budget is ", *bucket.memory_budget);
  if (available_ && needed > *available_) return text("the system has ", *available_, " available");
  return std::nullopt;
}

}  // namespace ctxrt::core
