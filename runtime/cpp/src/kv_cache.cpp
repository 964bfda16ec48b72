#include "kv_cache.h"

#include <cstring>
#include <new>

#include "system_memory.h"

namespace ctxrt::core {

Result<KVCache> KVCache::make(const DecoderRecord& decoder, std::int64_t capacity) {
  KVCache cache(decoder);
  CTXRT_CHECK(cache.grow(capacity));
  return cache;
}

std::vector<BoundArray> KVCache::arrays(const std::string& prefix) {
  const Shape shape{1, decoder_->kv_heads, capacity_, decoder_->head_size};
  std::vector<BoundArray> arrays;
  for (const auto& buffer : buffers_) {
    const auto index = arrays.size();
    const char* kind = index % 2 == 0 ? "key." : "value.";
    arrays.push_back({text(prefix, kind, index / 2), decoder_->cache_dtype, shape, buffer.get()});
  }
  return arrays;
}

Status KVCache::prepare(std::int64_t capacity) {
  drop_others(capacity);
  if (prepared_.size() == buffers_.size()) return Unit{};
  if (prepared_.empty()) {
    const auto left = available_bytes();
    if (left && decoder_->cache_bytes(1, capacity) > *left) return Unit{};
  }
  CTXRT_ASSIGN(auto buffer, take(capacity));
  prepared_.push_back(std::move(buffer));
  return Unit{};
}

Status KVCache::grow(std::int64_t capacity) {
  drop_others(capacity);
  if (prepared_.empty()) CTXRT_CHECK(check_memory(capacity));
  const std::size_t filled = tokens_.size() * slot_bytes();
  const std::size_t old_head = capacity_ * slot_bytes(), new_head = capacity * slot_bytes();
  buffers_.resize(2 * decoder_->layers);
  for (std::size_t i = 0; i < buffers_.size(); ++i) {
    if (i == prepared_.size()) {
      CTXRT_ASSIGN(auto buffer, take(capacity));
      prepared_.push_back(std::move(buffer));
    }
    for (std::int64_t head = 0; filled > 0 && head < decoder_->kv_heads; ++head) {
      std::memcpy(prepared_[i].get() + head * new_head, buffers_[i].get() + head * old_head, filled);
    }
    buffers_[i] = std::move(prepared_[i]);
  }
  prepared_.clear();
  capacity_ = capacity;
  return Unit{};
}

void KVCache::copy_last(std::int64_t slot) {
  const std::size_t bytes = slot_bytes();
  for (const auto& buffer : buffers_) {
    for (std::int64_t head = 0; head < decoder_->kv_heads; ++head) {
      std::byte* first = buffer.get() + head * capacity_ * bytes;
      std::memcpy(first + slot * bytes, first + (capacity_ - 1) * bytes, bytes);
    }
  }
}

// Drops what was prepared for another capacity: a text that goes on may skip the bucket that came next.
void KVCache::drop_others(std::int64_t capacity) {
  if (prepared_capacity_ != capacity) prepared_.clear();
  prepared_capacity_ = capacity;
}

// Refuses buffers that the system has no memory for; those that it holds now are given back as they come.
Status KVCache::check_memory(std::int64_t capacity) const {
  const auto left = available_bytes();
  const std::int64_t needed = decoder_->cache_bytes(1, capacity);
  if (!left || needed - bytes() <= *left) return Unit{};
  return Error{
      ErrorKind::memory_budget,
      text("a KV cache of 1 x ", capacity, " tokens takes ", needed, " bytes, the system has ", *left, " available"),
      text("the largest context that fits is ", (*left + bytes()) / decoder_->cache_bytes(1, 1), " tokens"), ""};
}

Result<KVCache::Buffer> KVCache::take(std::int64_t capacity) const {
  const std::size_t size = decoder_->kv_heads * capacity * slot_bytes();
  Buffer buffer(new (std::nothrow) std::byte[size]);
  if (!buffer) {
    return Error{ErrorKind::memory_budget,
                 text("no memory left for a KV cache of ", decoder_->cache_bytes(1, capacity), " bytes"),
                 "generate fewer or shorter texts at a time", ""};
  }
  std::memset(buffer.get(), 0, size);
  return buffer;
}

}  // namespace ctxrt::core
