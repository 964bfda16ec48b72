// Token ids -> an answer over the buckets of a bundle; the last cache is kept for a prompt that goes on from it.
#pragma once

#include <mutex>
#include <optional>
#include <span>

#include "decoding.h"
#include "generation.h"

namespace ctxrt::core {

// Generates with one bundle of a causal language model. Every method may be called from several threads at once: each
// text has a cache of its own, and all share the sessions.
class Generator {
 public:
  Generator(const Manifest& manifest, Dispatcher& sessions);

  // The buckets for `rows` texts at once, and the memory that the system has for them now. A text alone may have that
  // of the kept cache too: it goes on from it, or takes its place.
  Ladder ladder(std::int64_t rows);
  // Answers the prompt `ids`, (length,). `on_token` may be empty and `cancel` null; `cancel` ends the answer where it
  // is. Errors are told before anything runs, but for those of a backend and of memory that a larger bucket can't have.
  Result<Generation> generate(std::span<const std::int64_t> ids, const GenerationSettings& settings,
                              const OnToken& on_token, CancelToken* cancel);

 private:
  // The cache of the last text, and its bucket.
  struct Kept {
    const Bucket* bucket;
    KVCache cache;
  };

  Status check_ids(std::span<const std::int64_t> ids) const;
  Result<Decoding> begin(const Ladder& ladder, const Bucket& bucket, std::span<const std::int64_t> ids,
                         CancelToken* cancel);
  std::optional<Kept> swap(std::optional<Kept> kept);

  const Manifest& manifest_;
  const DecoderRecord& decoder_;
  Dispatcher& sessions_;
  std::mutex mutex_;
  std::optional<Kept> kept_;
};

}  // namespace ctxrt::core
