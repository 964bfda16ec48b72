// Runs the graphs of a decoder over one KV cache, in place, and moves through the buckets as the cache fills.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "dispatch.h"
#include "kv_cache.h"
#include "ladder.h"

namespace ctxrt::core {

// One text, as far as it is cached. A cache that has filled its bucket moves to the next one. Where that runs another
// network or scales its positions otherwise, cached keys are of no use: the text is run again. Beyond the largest
// bucket each new token takes the place of the oldest that is no attention sink.
class Decoding {
 public:
  // Begins in `bucket`, with a cache that holds as much; `cancel` may be null. What is given stays the caller's.
  Decoding(const DecoderRecord& decoder, Dispatcher& sessions, const Ladder& ladder, const Bucket& bucket,
           KVCache cache, CancelToken* cancel);

  const KVCache& cache() const { return cache_; }
  KVCache take_cache() && { return std::move(cache_); }
  const Bucket& bucket() const { return *visited_.back(); }
  // The buckets so far, in order.
  const std::vector<const Bucket*>& visited() const { return visited_; }
  Backend backend() const { return backend_; }

  // Runs the tokens of a text that are not cached, in chunks, but one at a time once the cache is full. The logits
  // (vocab,) after the last, which the next run overwrites. After an error, the cache holds nothing to go on from.
  Result<std::span<const float>> read(std::span<const std::int64_t> text);
  // The same of one more token, which may move to the next bucket first.
  Result<std::span<const float>> step(std::int64_t token);

 private:
  // A step of so many tokens, prepared once: the bytes of what it reads, the cache aside, and what it writes.
  struct Bound {
    std::int64_t length;
    std::map<std::string, std::vector<std::byte>> inputs;
    std::vector<float> logits;
    std::unique_ptr<BoundRun> run;
  };

  Status approach(const Bucket& larger);
  Status move(const Bucket& larger);
  Result<std::span<const float>> extend(std::span<const std::int64_t> ids);
  Status bind(const Tensors& feeds, std::int64_t length);

  const DecoderRecord& decoder_;
  Dispatcher& sessions_;
  const Ladder& ladder_;
  CancelToken* cancel_;
  std::vector<const Bucket*> visited_;
  Backend backend_ = Backend::onnxruntime_cpu;
  KVCache cache_;
  std::optional<Dispatcher::Lease> session_;  // of the bucket; it outlives what is bound to it
  std::optional<Bound> bound_;
};

}  // namespace ctxrt::core
