#include <cmath>
#include <iostream>

#include "commands.h"
#include "tables.h"

namespace ctxrt::command {
namespace {

using core::input_error;
using core::Result;
using core::text;

Result<core::GenerationSettings> read_settings(const Arguments& arguments) {
  core::GenerationSettings settings;
  CTXRT_ASSIGN(settings.max_new_tokens, arguments.whole("--max-new-tokens", 1));
  CTXRT_ASSIGN(settings.top_k, arguments.whole("--top-k", 1));
  CTXRT_ASSIGN(settings.seed, arguments.whole("--seed", 0));
  CTXRT_ASSIGN(settings.logprobs, arguments.whole("--logprobs", 0));
  for (const auto& [name, setting] : {std::pair{"--temperature", &core::GenerationSettings::temperature},
                                      {"--top-p", &core::GenerationSettings::top_p},
                                      {"--min-p", &core::GenerationSettings::min_p},
                                      {"--repetition-penalty", &core::GenerationSettings::repetition_penalty}}) {
    CTXRT_ASSIGN(const auto given, arguments.decimal(name));
    if (given) settings.*setting = *given;
  }
  for (const auto& given : arguments.all("--stop-id")) {
    CTXRT_ASSIGN(const auto ids, parse_numbers(given, 0));
    settings.stop_ids.insert(ids.begin(), ids.end());
  }
  return settings;
}

// Of `tokens` in `ms`; 0 if none were run.
double rate(std::int64_t tokens, double ms) {
  return tokens > 0 && ms > 0 ? static_cast<double>(tokens) / ms * 1e3 : 0;
}

double prefill_rate(const core::GenerationDispatch& ran) {
  return rate(ran.prompt_tokens - ran.reused_tokens, ran.prefill_ms);
}

double decode_rate(const core::Generation& generation) {
  return rate(std::ssize(generation.tokens) - 1, generation.dispatch.decode_ms);
}

nlohmann::ordered_json described(const core::Generation& generation) {
  const auto& ran = generation.dispatch;
  auto ids = nlohmann::ordered_json::array(), logprobs = ids;
  for (const auto& token : generation.tokens) {
    ids.push_back(token.id);
    auto top = nlohmann::ordered_json::array();
    for (const auto& likely : token.top) top.push_back({likely.id, likely.logprob});
    logprobs.push_back({{"logprob", token.logprob}, {"top", top}});
  }
  nlohmann::ordered_json json{{"text", nullptr},
                              {"tokens", ids},
                              {"finish_reason", core::name_of(generation.finish_reason)},
                              {"dispatch",
                               {{"prompt_tokens", ran.prompt_tokens},
                                {"reused_tokens", ran.reused_tokens},
                                {"new_tokens", generation.tokens.size()},
                                {"buckets", ran.buckets},
                                {"backend", core::name_of(ran.backend)},
                                {"cache_bytes", ran.cache_bytes},
                                {"prefill_ms", ran.prefill_ms},
                                {"decode_ms", ran.decode_ms},
                                {"reason", ran.reason},
                                {"prefill_tokens_per_second", prefill_rate(ran)},
                                {"decode_tokens_per_second", decode_rate(generation)}}}};
  const auto& tokens = generation.tokens;
  if (!tokens.empty() && !std::isnan(tokens.front().logprob)) json["logprobs"] = logprobs;
  return json;
}

std::string summary(const core::Generation& generation) {
  const auto& ran = generation.dispatch;
  std::string buckets;
  for (const auto& bucket : ran.buckets) buckets += (buckets.empty() ? "" : " -> ") + bucket;
  return text(ran.prompt_tokens, " tokens at ", fixed(prefill_rate(ran), 0), "/s, ", generation.tokens.size(),
              " new at ", fixed(decode_rate(generation), 0), "/s, ", buckets, ", KV cache ",
              fixed(static_cast<double>(ran.cache_bytes) / 1e6, 1), " MB, ended by ",
              core::name_of(generation.finish_reason));
}

}  // namespace

core::Result<int> generate(const Arguments& arguments) {
  const auto prompt = arguments.find("--ids");
  if (!prompt) return input_error("--ids is missing");
  CTXRT_ASSIGN(const auto ids, parse_numbers(*prompt, 0));
  CTXRT_ASSIGN(const auto settings, read_settings(arguments));
  CTXRT_ASSIGN(const auto runtime, core::Runtime::open(arguments.bundle, {}));
  const bool json = arguments.has("--json");
  CTXRT_ASSIGN(const auto generation, runtime->generate(ids, settings, [&](const core::Token& token) {
    if (!json) std::cout << token.id << " " << std::flush;
    return true;
  }));
  if (json) {
    print_json({{"generations", nlohmann::ordered_json::array({described(generation)})}});
  } else {
    std::cout << "\n";
    std::cerr << summary(generation) << "\n";
  }
  return 0;
}

}  // namespace ctxrt::command
