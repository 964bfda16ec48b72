// Logits -> the next token: the steps, and their order, of ctx_runtime/generation/sampling.py.
#pragma once

#include <optional>
#include <set>
#include <span>
#include <vector>

#include "random_stream.h"
#include "result.h"

namespace ctxrt::core {

// How text is generated. By default the likeliest token is taken each time, until the model ends the text.
struct GenerationSettings {
  std::optional<std::int64_t> max_new_tokens;  // of the answer; none: until the largest bucket is full
  double temperature = 0;                      // 0 takes the likeliest token; more draws more evenly
  std::optional<std::int64_t> top_k;           // draw from this many of the likeliest tokens only
  double top_p = 1;                            // draw from the likeliest tokens that together have this probability
  double min_p = 0;                            // draw from tokens with this share of the likeliest one's probability
  double repetition_penalty = 1;               // over 1, tokens that came before become less likely
  std::optional<std::uint64_t> seed;           // the same seed draws the same tokens; none: others each time
  std::set<std::int64_t> stop_ids;             // tokens that end the answer, beside those of the model
  std::optional<std::int64_t> logprobs;        // give log-probabilities, and those of this many of the likeliest

  // `input` for a value outside of its range.
  Status check() const;
};

struct LikelyToken {
  std::int64_t id;
  double logprob;  // the natural logarithm of its probability by the model
};

// The logarithms of the probabilities of `scores`.
std::vector<double> log_softmax(std::vector<double> scores);

// The `count` likeliest tokens, the likeliest first.
std::vector<LikelyToken> likeliest(std::span<const double> logprobs, std::int64_t count);

// Picks the tokens of one text, with random numbers of its own.
class Sampler {
 public:
  explicit Sampler(const GenerationSettings& settings);

  // The next token after logits (vocab,); `seen` are the tokens so far, which the repetition penalty is for.
  std::int64_t pick(std::span<const float> logits, const std::set<std::int64_t>& seen);

 private:
  std::int64_t draw(std::span<const float> logits);

  const GenerationSettings& settings_;
  RandomStream random_;
};

}  // namespace ctxrt::core
