#include "generation.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace ctxrt::core {
namespace {

Status check_logits(std::span<const float> logits, const Bucket& bucket) {
  const bool none = std::any_of(logits.begin(), logits.end(), [](float logit) { return std::isnan(logit); });
  if (!none && std::isfinite(*std::max_element(logits.begin(), logits.end()))) return Unit{};
  return backend_error(bucket.name + " gave logits that are not finite", "verify the bundle on this device");
}

}  // namespace

std::string_view name_of(FinishReason reason) {
  constexpr std::array<std::string_view, 4> names{"eos", "stop", "length", "cancelled"};
  return names[static_cast<std::size_t>(reason)];
}

Answer::Answer(const GenerationSettings& settings, std::span<const std::int64_t> prompt, std::int64_t limit,
               const std::vector<std::int64_t>& ends)
    : settings_(settings), limit_(limit), ends_(ends), sampler_(settings), seen_(prompt.begin(), prompt.end()) {}

Status Answer::accept(std::span<const float> logits, const Bucket& bucket, const OnToken& on_token) {
  CTXRT_CHECK(check_logits(logits, bucket));
  Token token;
  token.id = sampler_.pick(logits, seen_);
  token.bucket = bucket.name;
  token.capacity = bucket.max_length;
  if (settings_.logprobs) {
    const auto logprobs = log_softmax({logits.begin(), logits.end()});
    token.logprob = logprobs[token.id];
    token.top = likeliest(logprobs, *settings_.logprobs);
  }
  seen_.insert(token.id);
  tokens_.push_back(std::move(token));
  const std::int64_t id = tokens_.back().id;
  const bool goes_on = !on_token || on_token(tokens_.back());
  if (std::find(ends_.begin(), ends_.end(), id) != ends_.end()) {
    end(FinishReason::eos);
  } else if (settings_.stop_ids.contains(id)) {
    end(FinishReason::stop);
  } else if (std::ssize(tokens_) == limit_) {
    end(FinishReason::length);
  } else if (!goes_on) {
    end(FinishReason::cancelled);
  }
  return Unit{};
}

void Answer::end(FinishReason reason) {
  ended_ = true;
  reason_ = reason;
}

}  // namespace ctxrt::core
