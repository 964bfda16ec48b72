#include "generator.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "system_memory.h"

namespace ctxrt::core {
namespace {

using Clock = std::chrono::steady_clock;

double ms_since(Clock::time_point started) {
  return std::chrono::duration<double, std::milli>(Clock::now() - started).count();
}

// Cuts the cached text to what `ids` begins with; whether anything is left. At least the last of `ids` is left to be
// run: its logits are wanted. A cache that old tokens have left holds the whole of its text or nothing.
bool reuse(KVCache& cache, std::span<const std::int64_t> ids) {
  auto& cached = cache.tokens();
  const auto differs = std::mismatch(cached.begin(), cached.end(), ids.begin(), ids.end()).first;
  const std::int64_t shared = std::min<std::int64_t>(differs - cached.begin(), std::ssize(ids) - 1);
  if (shared < std::ssize(cached) && std::ssize(cached) > cache.capacity()) return false;
  cached.resize(shared);
  return shared > 0;
}

// Runs the prompt, then step by step; notes the time.
Status answer_all(Decoding& decoding, std::span<const std::int64_t> ids, const OnToken& on_token, Answer& answer,
                  GenerationDispatch& dispatch) {
  auto started = Clock::now();
  CTXRT_ASSIGN(auto logits, decoding.read(ids));
  CTXRT_CHECK(answer.accept(logits, decoding.bucket(), on_token));
  dispatch.prefill_ms = ms_since(std::exchange(started, Clock::now()));
  while (!answer.ended()) {
    CTXRT_ASSIGN(logits, decoding.step(answer.tokens().back().id));
    CTXRT_CHECK(answer.accept(logits, decoding.bucket(), on_token));
    dispatch.decode_ms = ms_since(started);
  }
  return Unit{};
}

}  // namespace

Generator::Generator(const Manifest& manifest, Dispatcher& sessions)
    : manifest_(manifest), decoder_(*manifest.decoder), sessions_(sessions) {}

Ladder Generator::ladder(std::int64_t rows) {
  auto available = available_bytes();
  const std::lock_guard lock(mutex_);
  if (available && kept_ && rows == 1) *available += kept_->cache.bytes();
  return {manifest_, rows, available};
}

Result<Generation> Generator::generate(std::span<const std::int64_t> ids, const GenerationSettings& settings,
                                       const OnToken& on_token, CancelToken* cancel) {
  CTXRT_CHECK(settings.check());
  CTXRT_CHECK(check_ids(ids));
  const Ladder buckets = ladder(1);
  CTXRT_ASSIGN(const auto choice, buckets.choose(std::ssize(ids), settings.max_new_tokens));
  const std::int64_t limit = settings.max_new_tokens ? *settings.max_new_tokens : buckets.limit(std::ssize(ids));
  CTXRT_ASSIGN(auto decoding, begin(buckets, *choice.bucket, ids, cancel));
  Generation generation;
  generation.dispatch.prompt_tokens = std::ssize(ids);
  generation.dispatch.reused_tokens = decoding.cache().length();
  generation.dispatch.reason = choice.reason;
  Answer answer(settings, ids, limit, decoder_.eos_token_ids);
  const Status ran = answer_all(decoding, ids, on_token, answer, generation.dispatch);
  if (!ran && ran.error().kind != ErrorKind::cancelled) return ran.error();
  generation.tokens = std::move(answer.tokens());
  generation.finish_reason = answer.finish_reason();
  for (const Bucket* bucket : decoding.visited()) generation.dispatch.buckets.push_back(bucket->name);
  generation.dispatch.backend = decoding.backend();
  generation.dispatch.cache_bytes = decoding.cache().bytes();
  if (ran) swap(Kept{&decoding.bucket(), std::move(decoding).take_cache()});
  return generation;
}

Status Generator::check_ids(std::span<const std::int64_t> ids) const {
  if (ids.empty()) return Unit{};
  const auto [least, most] = std::minmax_element(ids.begin(), ids.end());
  if (*least >= 0 && *most < decoder_.vocab_size) return Unit{};
  return input_error(text("token ids are from 0 to ", decoder_.vocab_size - 1, ", got ", *least, " to ", *most));
}

// Goes on from the kept cache as far as it has the same tokens, else from an empty one.
Result<Decoding> Generator::begin(const Ladder& ladder, const Bucket& bucket, std::span<const std::int64_t> ids,
                                  CancelToken* cancel) {
  auto kept = swap(std::nullopt);
  if (kept && kept->bucket->network == bucket.network && reuse(kept->cache, ids)) {
    const Bucket& larger = kept->bucket->max_length > bucket.max_length ? *kept->bucket : bucket;
    if (kept->cache.capacity() < larger.max_length) CTXRT_CHECK(kept->cache.grow(larger.max_length));
    return Decoding(decoder_, sessions_, ladder, larger, std::move(kept->cache), cancel);
  }
  kept.reset();  // before memory for another is asked for
  CTXRT_ASSIGN(auto cache, KVCache::make(decoder_, bucket.max_length));
  return Decoding(decoder_, sessions_, ladder, bucket, std::move(cache), cancel);
}

std::optional<Generator::Kept> Generator::swap(std::optional<Kept> kept) {
  const std::lock_guard lock(mutex_);
  return std::exchange(kept_, std::move(kept));
}

}  // namespace ctxrt::core
