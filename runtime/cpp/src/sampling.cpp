#include "sampling.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

namespace ctxrt::core {
namespace {

std::uint64_t any_seed() {
  std::random_device device;
  return (std::uint64_t{device()} << 32) | device();
}

// The tokens in descending order of `scores`, the first `count` of them; equal ones in their own order.
template <class Number>
std::vector<std::int64_t> ranked(std::span<const Number> scores, std::int64_t count) {
  std::vector<std::int64_t> tokens(scores.size());
  std::iota(tokens.begin(), tokens.end(), 0);
  const auto end = tokens.begin() + std::min(count, std::ssize(scores));
  const auto first = [&](auto a, auto b) { return scores[a] > scores[b] || (scores[a] == scores[b] && a < b); };
  std::nth_element(tokens.begin(), end, tokens.end(), first);
  std::sort(tokens.begin(), end, first);
  tokens.erase(end, tokens.end());
  return tokens;
}

Status check_range(bool holds, const char* name, const char* expected) {
  if (holds) return Unit{};
  return input_error(text(name, ": expected ", expected));
}

}  // namespace

Status GenerationSettings::check() const {
  CTXRT_CHECK(check_range(!max_new_tokens || *max_new_tokens >= 1, "max_new_tokens", "at least 1"));
  CTXRT_CHECK(check_range(std::isfinite(temperature) && temperature >= 0, "temperature", "at least 0"));
  CTXRT_CHECK(check_range(!top_k || *top_k >= 1, "top_k", "at least 1"));
  CTXRT_CHECK(check_range(top_p > 0 && top_p <= 1, "top_p", "above 0 and at most 1"));
  CTXRT_CHECK(check_range(min_p >= 0 && min_p <= 1, "min_p", "from 0 to 1"));
  CTXRT_CHECK(
      check_range(std::isfinite(repetition_penalty) && repetition_penalty > 0, "repetition_penalty", "above 0"));
  return check_range(!logprobs || *logprobs >= 0, "logprobs", "at least 0");
}

std::vector<double> log_softmax(std::vector<double> scores) {
  const double largest = *std::max_element(scores.begin(), scores.end());
  double sum = 0;
  for (const double score : scores) sum += std::exp(score - largest);
  for (double& score : scores) score = score - largest - std::log(sum);
  return scores;
}

std::vector<LikelyToken> likeliest(std::span<const double> logprobs, std::int64_t count) {
  std::vector<LikelyToken> found;
  for (const auto token : ranked(logprobs, count)) found.push_back({token, logprobs[token]});
  return found;
}

Sampler::Sampler(const GenerationSettings& settings)
    : settings_(settings), random_(settings.seed ? *settings.seed : any_seed()) {}

std::int64_t Sampler::pick(std::span<const float> logits, const std::set<std::int64_t>& seen) {
  std::vector<float> penalised;
  if (settings_.repetition_penalty != 1) {
    const auto penalty = static_cast<float>(settings_.repetition_penalty);
    penalised.assign(logits.begin(), logits.end());
    for (const auto token : seen)
      penalised[token] = logits[token] < 0 ? logits[token] * penalty : logits[token] / penalty;
    logits = penalised;
  }
  if (settings_.temperature == 0) return std::max_element(logits.begin(), logits.end()) - logits.begin();
  return draw(logits);
}

// One of the tokens that temperature, top-k, top-p and min-p leave; probabilities are relative to what top-k leaves.
std::int64_t Sampler::draw(std::span<const float> logits) {
  const auto tokens = ranked(logits, settings_.top_k.value_or(std::ssize(logits)));
  std::vector<double> scores;
  scores.reserve(tokens.size());
  for (const auto token : tokens) scores.push_back(double{logits[token]} / settings_.temperature);
  std::vector<double> cumulated;
  std::vector<std::int64_t> kept;
  double total = 0, largest = 0;
  for (std::size_t i = 0; const double logprob : log_softmax(std::move(scores))) {
    const double probability = std::exp(logprob);
    total += probability;
    if (i == 0) largest = probability;
    if (i == 0 || (total - probability < settings_.top_p && probability >= settings_.min_p * largest)) {
      cumulated.push_back((kept.empty() ? 0 : cumulated.back()) + probability);
      kept.push_back(tokens[i]);
    }
    ++i;
  }
  const double drawn = random_.uniform() * cumulated.back();
  const auto place = std::upper_bound(cumulated.begin(), cumulated.end(), drawn) - cumulated.begin();
  return kept[std::min(place, std::ssize(kept) - 1)];
}

}  // namespace ctxrt::core
