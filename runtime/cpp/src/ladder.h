// The buckets that a text climbs as it grows: which it begins in, which come next, and what each takes in memory.
#pragma once

#include <cstdint>
#include <optional>

#include "choosing.h"

namespace ctxrt::core {

// The buckets of a causal language model, for `rows` texts at once.
class Ladder {
 public:
  // `available` bytes are what the system can give; none: unknown.
  Ladder(const Manifest& manifest, std::int64_t rows, std::optional<std::int64_t> available);

  // Bytes of the KV cache in `bucket`, and of what a chunk of a prompt needs besides.
  std::int64_t bytes_in(const Bucket& bucket) const;
  // Whether a full cache lets old tokens go.
  bool slides() const { return manifest_.overflow.policy == OverflowPolicy::sliding; }
  // The smallest bucket that holds a prompt and what is to come, both in tokens, with the reason. Without a known
  // number of new tokens, that is the bundle's reserve; a text that needs more moves on. `input` if the prompt is
  // empty, `too_long` if no bucket holds them and the overflow policy is `error`, `memory_budget` if those that do may
  // not take the memory.
  Result<Choice> choose(std::int64_t prompt, std::optional<std::int64_t> fresh) const;
  // The next larger bucket that may take its memory; null if there is none.
  const Bucket* after(const Bucket& bucket) const;
  // New tokens of an answer of unknown length, at most: what the largest bucket has room for. Where old tokens may go
  // from it, the reserve; a bucket with no room beside the sinks lets none go.
  std::int64_t limit(std::int64_t prompt) const;

 private:
  Status check_length(std::int64_t prompt, std::int64_t fresh) const;
  Status check_memory(std::int64_t needed) const;
  std::optional<std::string> refusal(const Bucket& bucket) const;

  const Manifest& manifest_;
  std::int64_t rows_;
  std::optional<std::int64_t> available_;
  std::vector<const Bucket*> affordable_;  // those that may take their memory, in ascending order
};

}  // namespace ctxrt::core
