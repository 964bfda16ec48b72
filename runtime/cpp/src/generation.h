// One answer as it grows: its tokens, and what ends it.
#pragma once

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "manifest.h"
#include "sampling.h"

namespace ctxrt::core {

// The model ended the text, a token of `stop_ids` came, there may be no more tokens, or the caller ended it.
enum class FinishReason { eos, stop, length, cancelled };

std::string_view name_of(FinishReason reason);

// One token of an answer.
struct Token {
  std::int64_t id = 0;
  std::string bucket;                                         // where it was generated
  std::int64_t capacity = 0;                                  // of the cache there, in tokens
  double logprob = std::numeric_limits<double>::quiet_NaN();  // NaN unless `logprobs` are asked for
  std::vector<LikelyToken> top;                               // the likeliest tokens, the likeliest first
};

// How a text was generated.
struct GenerationDispatch {
  std::int64_t prompt_tokens = 0;
  std::int64_t reused_tokens = 0;    // of the prompt, cached by the call before
  std::vector<std::string> buckets;  // that it went through, in order
  Backend backend = Backend::onnxruntime_cpu;
  std::int64_t cache_bytes = 0;  // of the KV cache at the end
  double prefill_ms = 0;         // wall time of the prompt, and of opening the session where it was not open
  double decode_ms = 0;          // wall time of the steps after it
  std::string reason;            // why it began in the first bucket
};

// An answer; `tokens` holds the one that ends it too.
struct Generation {
  std::vector<Token> tokens;
  FinishReason finish_reason = FinishReason::cancelled;
  GenerationDispatch dispatch;
};

// Called for each token as it comes; false ends the answer.
using OnToken = std::function<bool(const Token&)>;

// Grows an answer from logits.
class Answer {
 public:
  // `settings` must outlive it; `limit` is of new tokens, `ends` are the tokens by which the model ends a text.
  Answer(const GenerationSettings& settings, std::span<const std::int64_t> prompt, std::int64_t limit,
         const std::vector<std::int64_t>& ends);

  // Picks the next token from logits (vocab,), and sees whether it is the last one.
  // `backend` where they are no numbers that a token can be picked by.
  Status accept(std::span<const float> logits, const Bucket& bucket, const OnToken& on_token);
  bool ended() const { return ended_; }
  std::vector<Token>& tokens() { return tokens_; }
  FinishReason finish_reason() const { return reason_; }

 private:
  void end(FinishReason reason);

  const GenerationSettings& settings_;
  std::int64_t limit_;
  const std::vector<std::int64_t>& ends_;
  Sampler sampler_;
  std::set<std::int64_t> seen_;
  std::vector<Token> tokens_;
  bool ended_ = false;
  FinishReason reason_ = FinishReason::cancelled;
};

}  // namespace ctxrt::core
