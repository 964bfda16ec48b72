// The KV cache of one text: a buffer for the keys and one for the values of each layer, read and written in place.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "manifest.h"
#include "session.h"

namespace ctxrt::core {

// Keys and values of the tokens of one text, each buffer (1, kv_heads, capacity, head_size).
class KVCache {
 public:
  // Takes the memory, filled with zeros: what is masked must still be finite. `memory_budget` where the system has not
  // so much available; nothing of it is taken then.
  static Result<KVCache> make(const DecoderRecord& decoder, std::int64_t capacity);

  std::int64_t capacity() const { return capacity_; }
  std::int64_t bytes() const { return decoder_->cache_bytes(1, capacity_); }
  // Tokens whose keys and values are cached; in a full cache the oldest may have left it.
  std::vector<std::int64_t>& tokens() { return tokens_; }
  const std::vector<std::int64_t>& tokens() const { return tokens_; }
  std::int64_t length() const { return std::ssize(tokens_); }
  // The buffers, by the names `prefix` + "key.0", "value.0", "key.1", …
  std::vector<BoundArray> arrays(const std::string& prefix);

  // Takes one more buffer of the capacity that `grow` will ask for: the first touch of fresh memory is most of what a
  // move costs, and one buffer before each of the last steps spreads it. Where the system has no memory for all of
  // them, none is taken: the text may end before.
  Status prepare(std::int64_t capacity);
  // Moves to larger buffers by one copy of what is filled. `memory_budget` as `make`.
  Status grow(std::int64_t capacity);
  // Copies what the last slot holds over another slot.
  void copy_last(std::int64_t slot);

 private:
  using Buffer = std::unique_ptr<std::byte[]>;

  explicit KVCache(const DecoderRecord& decoder) : decoder_(&decoder) {}
  void drop_others(std::int64_t capacity);
  Status check_memory(std::int64_t capacity) const;
  Result<Buffer> take(std::int64_t capacity) const;
  std::size_t slot_bytes() const { return decoder_->head_size * item_bytes(decoder_->cache_dtype); }

  const DecoderRecord* decoder_;
  std::int64_t capacity_ = 0;
  std::vector<std::int64_t> tokens_;
  std::vector<Buffer> buffers_, prepared_;
  std::int64_t prepared_capacity_ = 0;
};

}  // namespace ctxrt::core
