// The part of the C interface that generates text.
#include "c_api.h"

namespace core = ctxrt::core;

namespace {

using LikelyTokens = std::vector<ctxrt_likely_token>;

// `top` is what the token shows, and must outlive it.
ctxrt_token shown(const core::Token& token, const LikelyTokens& top) {
  return {token.id, token.logprob, top.data(), top.size(), token.bucket.c_str(), token.capacity};
}

LikelyTokens top_of(const core::Token& token) {
  LikelyTokens top;
  for (const auto& likely : token.top) top.push_back({likely.id, likely.logprob});
  return top;
}

core::Result<core::GenerationSettings> settings_of(const ctxrt_generation_options* given) {
  core::GenerationSettings settings;
  if (given == nullptr) return settings;
  if (given->stop_id_count > 0) CTXRT_CHECK(core::check_pointers(given->stop_ids));
  if (given->max_new_tokens != 0) settings.max_new_tokens = given->max_new_tokens;
  settings.temperature = given->temperature;
  if (given->top_k != 0) settings.top_k = given->top_k;
  if (given->top_p != 0) settings.top_p = given->top_p;
  settings.min_p = given->min_p;
  if (given->repetition_penalty != 0) settings.repetition_penalty = given->repetition_penalty;
  if (given->seed != nullptr) settings.seed = *given->seed;
  settings.stop_ids = {given->stop_ids, given->stop_ids + given->stop_id_count};
  if (given->logprobs != 0 || given->top_logprobs != 0) settings.logprobs = given->top_logprobs;
  return settings;
}

core::OnToken callback_of(ctxrt_on_token on_token, void* user_data) {
  if (on_token == nullptr) return {};
  return [on_token, user_data](const core::Token& token) {
    const LikelyTokens top = top_of(token);
    const ctxrt_token given = shown(token, top);
    return on_token(&given, user_data) == 0;
  };
}

}  // namespace

struct ctxrt_generation {
  explicit ctxrt_generation(core::Generation given) : generation(std::move(given)) {
    for (const auto& token : generation.tokens) {
      ids.push_back(token.id);
      tops.push_back(top_of(token));
    }
    for (const auto& bucket : generation.dispatch.buckets) buckets.push_back(bucket.c_str());
  }

  core::Generation generation;
  std::vector<std::int64_t> ids;
  std::vector<LikelyTokens> tops;
  std::vector<const char*> buckets;
};

ctxrt_status ctxrt_generate(ctxrt_runtime* runtime, const int64_t* ids, size_t count,
                            const ctxrt_generation_options* options, ctxrt_on_token on_token, void* user_data,
                            ctxrt_cancel* cancel, ctxrt_generation** generation) {
  return core::guarded([&]() -> core::Status {
    CTXRT_CHECK(core::check_pointers(runtime, generation));
    if (count > 0) CTXRT_CHECK(core::check_pointers(ids));
    CTXRT_ASSIGN(const auto settings, settings_of(options));
    auto answered = runtime->runtime->generate({ids, count}, settings, callback_of(on_token, user_data),
                                               cancel == nullptr ? nullptr : &cancel->token);
    CTXRT_CHECK(answered);
    *generation = new ctxrt_generation(*std::move(answered));
    return core::Unit{};
  });
}

void ctxrt_generation_free(ctxrt_generation* generation) { delete generation; }

const int64_t* ctxrt_generation_ids(const ctxrt_generation* generation, size_t* count) {
  *count = generation->ids.size();
  return generation->ids.data();
}

ctxrt_status ctxrt_generation_token(const ctxrt_generation* generation, size_t index, ctxrt_token* token) {
  return core::guarded([&]() -> core::Status {
    CTXRT_CHECK(core::check_pointers(generation, token));
    CTXRT_CHECK(core::check_index(index, generation->ids.size()));
    *token = shown(generation->generation.tokens[index], generation->tops[index]);
    return core::Unit{};
  });
}

void ctxrt_generation_get(const ctxrt_generation* generation, ctxrt_generation_dispatch* dispatch) {
  const auto& [tokens, reason, ran] = generation->generation;
  *dispatch = {static_cast<ctxrt_finish>(reason),
               ran.prompt_tokens,
               ran.reused_tokens,
               generation->buckets.data(),
               generation->buckets.size(),
               core::name_of(ran.backend).data(),
               ran.cache_bytes,
               ran.prefill_ms,
               ran.decode_ms,
               ran.reason.c_str()};
}
