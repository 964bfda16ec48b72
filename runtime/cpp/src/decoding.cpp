#include "decoding.h"

#include <algorithm>
#include <cstring>

#include "decoder_feeds.h"

namespace ctxrt::core {

Decoding::Decoding(const DecoderRecord& decoder, Dispatcher& sessions, const Ladder& ladder, const Bucket& bucket,
                   KVCache cache, CancelToken* cancel)
    : decoder_(decoder),
      sessions_(sessions),
      ladder_(ladder),
      cancel_(cancel),
      visited_{&bucket},
      cache_(std::move(cache)) {}

Result<std::span<const float>> Decoding::read(std::span<const std::int64_t> text) {
  std::span<const float> logits;
  while (cache_.length() < std::ssize(text)) {
    const std::int64_t room = std::clamp<std::int64_t>(cache_.capacity() - cache_.length(), 1, decoder_.chunk);
    const auto left = text.subspan(cache_.length());
    CTXRT_ASSIGN(logits, extend(left.first(std::min<std::size_t>(room, left.size()))));
  }
  return logits;
}

Result<std::span<const float>> Decoding::step(std::int64_t token) {
  if (const Bucket* larger = ladder_.after(bucket())) CTXRT_CHECK(approach(*larger));
  return extend({&token, 1});
}

// Moves to the next bucket if this one has no slots left; takes its buffers one by one before that.
Status Decoding::approach(const Bucket& larger) {
  const std::int64_t left = cache_.capacity() - cache_.length();
  if (left == 0) return move(larger);
  if (larger.network == bucket().network && left <= 2 * decoder_.layers) return cache_.prepare(larger.max_length);
  return Unit{};
}

Status Decoding::move(const Bucket& larger) {
  const bool same = larger.network == bucket().network;
  bound_.reset();
  session_.reset();
  visited_.push_back(&larger);
  if (same) return cache_.grow(larger.max_length);
  const auto text = std::move(cache_.tokens());
  CTXRT_ASSIGN(cache_, KVCache::make(decoder_, larger.max_length));
  CTXRT_CHECK(read(text));
  return Unit{};
}

// Runs tokens that the cache has room for, or one.
Result<std::span<const float>> Decoding::extend(std::span<const std::int64_t> ids) {
  const std::int64_t start = cache_.length();
  if (start >= cache_.capacity() && decoder_.form == DecoderForm::gqa) {
    cache_.copy_last(retired_slot(start - 1, cache_.capacity(), decoder_.sinks));
  }
  const Tensors feeds = decoder_feeds(decoder_, ids, start, cache_.capacity());
  if (!bound_ || bound_->length != std::ssize(ids)) CTXRT_CHECK(bind(feeds, std::ssize(ids)));
  for (auto& [name, bytes] : bound_->inputs) std::memcpy(bytes.data(), feeds.at(name).data.get(), bytes.size());
  CTXRT_CHECK(bound_->run->run(cancel_));
  cache_.tokens().insert(cache_.tokens().end(), ids.begin(), ids.end());
  return std::span<const float>(bound_->logits);
}

Status Decoding::bind(const Tensors& feeds, std::int64_t length) {
  if (!session_) {
    CTXRT_ASSIGN(auto session, sessions_.session(bucket(), Form::masked));
    session_.emplace(std::move(session));
  }
  Dispatcher::Lease& session = *session_;
  Bound bound{length, {}, std::vector<float>(decoder_.vocab_size), nullptr};
  const auto& names = session->inputs();
  std::vector<BoundArray> inputs = cache_.arrays("past_"), outputs = cache_.arrays("present_");
  for (const auto& [name, feed] : feeds) {
    if (std::find(names.begin(), names.end(), name) == names.end()) continue;
    auto& bytes = bound.inputs[name] = std::vector<std::byte>(feed.bytes());
    inputs.push_back({name, feed.dtype, feed.shape, bytes.data()});
  }
  outputs.push_back(
      {"logits", DType::float32, {1, decoder_.vocab_size}, reinterpret_cast<std::byte*>(bound.logits.data())});
  CTXRT_ASSIGN(bound.run, session->bind(inputs, outputs, bucket()));
  backend_ = session->backend();
  bound_ = std::move(bound);
  return Unit{};
}

}  // namespace ctxrt::core
