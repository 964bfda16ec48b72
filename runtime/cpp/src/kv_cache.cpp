#include "kv_cache.h"

#include <cstring>
#include <new>

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
  if (prepared_.size() == buffers_.size()) return Unit{};
  CTXRT_ASSIGN(auto buffer, take(capacity));
  prepared_.push_back(std::move(buffer));
  return Unit{};
}

Status KVCache::grow(std::int64_t capacity) {
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
