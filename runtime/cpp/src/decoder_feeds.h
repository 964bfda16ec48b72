// What a decoder graph is fed in one step, beside its cache: the same as ctx_runtime/generation/{feeds,ring}.py.
//
// A cache has `capacity` slots. In order, the first tokens of the text fill the first slots; once it is full, the first
// few stay (attention sinks) and each new token takes the place of the oldest other. Attention does not depend on the
// order of slots: keys carry their rotation, and masks know positions.
#pragma once

#include <cstdint>
#include <span>

#include "manifest.h"

namespace ctxrt::core {

// Where the token at `position` moves before the next one is written into a full cache of the form `gqa`, which always
// writes the last slot.
std::int64_t retired_slot(std::int64_t position, std::int64_t capacity, std::int64_t sinks);

// Feeds of one text's next tokens, in the form of `decoder`, more than some graphs take.
//
// ids: they fit the cache, or are one.
// start: tokens that are cached, the position of the first new one.
Tensors decoder_feeds(const DecoderRecord& decoder, std::span<const std::int64_t> ids, std::int64_t start,
                      std::int64_t capacity);

}  // namespace ctxrt::core
