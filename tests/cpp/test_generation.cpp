// Generation on the bundle `decoder`: threads, cancelling, callbacks, and what 200 of all that leave behind.
#include <gtest/gtest.h>

#include <cmath>
#include <stdexcept>
#include <thread>

#include "cases.h"
#include "ctxrt/ctxrt.hpp"
#include "runtime.h"

namespace ctxrt::tests {
namespace {

using Ids = std::vector<std::int64_t>;

Ids prompt(std::int64_t seed) {
  Ids ids;
  for (std::int64_t i = 0; i < 7 + seed % 9; ++i) ids.push_back(3 + (seed * 31 + i * i * 7) % 94);
  return ids;
}

Ids ids_of(const core::Generation& generation) {
  Ids ids;
  for (const auto& token : generation.tokens) ids.push_back(token.id);
  return ids;
}

Ids ids_of(const Generation& generation) { return {generation.ids().begin(), generation.ids().end()}; }

class OnDecoder : public testing::Test {
 protected:
  void SetUp() override { CTXRT_NEEDS_ONNXRUNTIME(); }

  std::string bundle(const Json& manifest = Json::array()) const {
    return make_bundle(folder_.path(), {{"bundle", "decoder"}, {"manifest", manifest}}).string();
  }

  TemporaryFolder folder_;
};

TEST_F(OnDecoder, ThreadsGetTheAnswersOfOneThread) {
  constexpr int threads = 8, prompts = 12;
  Runtime runtime(bundle());
  GenerationOptions options;
  options.max_new_tokens = 40;
  options.temperature = 1.3;
  std::vector<Ids> expected;
  for (int i = 0; i < prompts; ++i) {
    options.seed = i;
    expected.push_back(ids_of(runtime.generate(prompt(i), options)));
  }
  std::vector<int> matched(threads, 0);
  {
    std::vector<std::jthread> workers;
    for (int worker = 0; worker < threads; ++worker) {
      workers.emplace_back([&, worker, options]() mutable {
        for (int i = 0; i < prompts; ++i) {
          const int index = (i * 5 + worker) % prompts;
          options.seed = index;
          matched[worker] += ids_of(runtime.generate(prompt(index), options)) == expected[index] ? 1 : 0;
        }
      });
    }
  }
  EXPECT_EQ(matched, std::vector<int>(threads, prompts));
}

TEST_F(OnDecoder, ACallbackSeesEachTokenAndEndsTheAnswer) {
  Runtime runtime(bundle());
  GenerationOptions options;
  options.logprobs = 2;
  Ids seen;
  const auto generation = runtime.generate(prompt(1), options, [&](const ctxrt_token& token) {
    EXPECT_EQ(token.top_count, 2U);
    EXPECT_EQ(token.top[0].id, token.id);
    EXPECT_DOUBLE_EQ(token.top[0].logprob, token.logprob);
    EXPECT_STREQ(token.bucket, token.capacity == 16 ? "ctx-16" : "ctx-48");
    seen.push_back(token.id);
    return seen.size() < 20;
  });
  EXPECT_EQ(seen.size(), 20U);
  EXPECT_EQ(ids_of(generation), seen);
  const auto ran = generation.dispatch();
  EXPECT_EQ(ran.finish_reason, CTXRT_FINISH_CANCELLED);
  ASSERT_EQ(ran.bucket_count, 2U);
  EXPECT_STREQ(ran.buckets[1], "ctx-48");
  EXPECT_EQ(generation.token(19).id, seen[19]);
  EXPECT_THROW(generation.token(20), Failure);
  Ids longer = prompt(1);
  longer.insert(longer.end(), seen.begin(), seen.end());
  options.logprobs.reset();
  options.max_new_tokens = 1;
  const auto next = runtime.generate(longer, options);
  EXPECT_EQ(next.dispatch().reused_tokens, std::ssize(longer) - 1);
  EXPECT_TRUE(std::isnan(next.token(0).logprob));
}

TEST_F(OnDecoder, AnAnswerOutlivesItsRuntime) {
  std::optional<Generation> generation;
  {
    Runtime runtime(bundle());
    generation.emplace(runtime.generate(prompt(1)));
  }
  EXPECT_STREQ(generation->token(0).bucket, "ctx-16");
  EXPECT_STREQ(generation->dispatch().buckets[0], "ctx-16");
}

TEST_F(OnDecoder, WhatACallbackThrowsComesOut) {
  Runtime runtime(bundle());
  const auto throws = [](const ctxrt_token&) -> bool { throw std::runtime_error("full"); };
  EXPECT_THROW(runtime.generate(prompt(1), {}, throws), std::runtime_error);
}

TEST_F(OnDecoder, AnotherThreadCancelsInMidstream) {
  Runtime runtime(bundle({{{"op", "replace"}, {"path", "/overflow/policy"}, {"value", "sliding"}}}));
  GenerationOptions options;
  options.max_new_tokens = 1000000;
  Cancel cancel;
  std::atomic<int> seen{0};
  std::jthread canceller([&] {
    while (seen < 150) std::this_thread::yield();
    cancel.now();
  });
  const auto counted = [&](const ctxrt_token&) { return ++seen > 0; };
  const auto generation = runtime.generate(prompt(2), options, counted, &cancel);
  EXPECT_EQ(generation.dispatch().finish_reason, CTXRT_FINISH_CANCELLED);
  EXPECT_GE(generation.ids().size(), 150U);
  EXPECT_EQ(runtime.generate(prompt(2), options, counted, &cancel).ids().size(), 0U);
  options.max_new_tokens = 100;
  const Ids again = ids_of(runtime.generate(prompt(2), options));
  EXPECT_EQ(again, Ids(generation.ids().begin(), generation.ids().begin() + 100));
}

// Under AddressSanitizer, what is leaked fails the test program.
TEST_F(OnDecoder, CancelledFailedAndRefusedAnswers200TimesLeaveNothing) {
  const Json poor{{{"op", "replace"}, {"path", "/buckets/2/memory_budget"}, {"value", 1}}};
  const auto runtime = core::Runtime::open(bundle(poor), {});
  ASSERT_TRUE(runtime) << runtime.error().message;
  core::GenerationSettings settings;
  const Ids expected = ids_of(*(*runtime)->generate(prompt(0), settings));
  for (int i = 0; i < 200; ++i) {
    settings.max_new_tokens = 60;
    EXPECT_EQ((*runtime)->generate(prompt(i), settings).error().kind, core::ErrorKind::memory_budget);
    EXPECT_EQ((*runtime)->generate(Ids(200, 5), settings).error().kind, core::ErrorKind::too_long);
    settings.max_new_tokens.reset();
    core::CancelToken cancel;
    int left = i % 12;
    const auto cancelling = [&](const core::Token&) {
      if (left-- == 0) cancel.cancel();
      return true;
    };
    const auto cut = (*runtime)->generate(prompt(i), settings, cancelling, i % 2 == 0 ? &cancel : nullptr);
    ASSERT_TRUE(cut);
    EXPECT_EQ(cut->tokens.size(), i % 2 == 0 ? i % 12 + 1 : 48 - prompt(i).size());
  }
  EXPECT_EQ((*runtime)->stats().pool.open_sessions, 1U);
  EXPECT_EQ(ids_of(*(*runtime)->generate(prompt(0), settings)), expected);
  (*runtime)->close();
  EXPECT_EQ((*runtime)->generate(prompt(0), settings).error().kind, core::ErrorKind::closed);
}

TEST_F(OnDecoder, ExplainStatesTheMemory) {
  const auto runtime = core::Runtime::open(bundle(), {});
  const auto told = (*runtime)->explain(30, 100);
  ASSERT_TRUE(told) << told.error().message;
  EXPECT_EQ(told->bucket, "ctx-48");
  EXPECT_EQ(told->reason, "30 tokens and 4 in reserve: 1.2 MB in ctx-48");
  const core::Tensors inputs{{"input_ids", core::from_doubles(std::vector<double>{5}, core::DType::int64, {1})}};
  EXPECT_EQ((*runtime)->run({&inputs, 1}).error().hint, "use generate");
}

TEST_F(OnDecoder, WhatTheSystemHasIsNotExceeded) {
  const auto bundle_here = core::open_bundle(bundle());
  ASSERT_TRUE(bundle_here) << bundle_here.error().message;
  const core::Ladder poor(bundle_here->manifest, 1, 13000);
  const auto refused = poor.choose(40, 20);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().kind, core::ErrorKind::memory_budget);
  EXPECT_EQ(refused.error().message, "1 x 60 tokens take 24576 bytes in ctx-96, the system has 13000 available");
  EXPECT_EQ(refused.error().hint, "the largest context that fits is 48 tokens");
  EXPECT_EQ(poor.choose(40, std::nullopt)->bucket->name, "ctx-48");
  EXPECT_EQ(poor.limit(40), 8);
}

TEST_F(OnDecoder, CarelessCallersGetInputErrors) {
  ctxrt_runtime* runtime = nullptr;
  ASSERT_EQ(ctxrt_open(bundle().c_str(), nullptr, &runtime), CTXRT_OK);
  ctxrt_generation* generation = nullptr;
  const std::int64_t ids[]{5, 6};
  ctxrt_generation_options options{};
  EXPECT_EQ(ctxrt_generate(nullptr, ids, 2, nullptr, nullptr, nullptr, nullptr, &generation), CTXRT_ERROR_INPUT);
  EXPECT_EQ(ctxrt_generate(runtime, nullptr, 2, nullptr, nullptr, nullptr, nullptr, &generation), CTXRT_ERROR_INPUT);
  EXPECT_EQ(ctxrt_generate(runtime, ids, 2, nullptr, nullptr, nullptr, nullptr, nullptr), CTXRT_ERROR_INPUT);
  options.stop_id_count = 1;
  EXPECT_EQ(ctxrt_generate(runtime, ids, 2, &options, nullptr, nullptr, nullptr, &generation), CTXRT_ERROR_INPUT);
  options = {};
  options.temperature = std::nan("");
  EXPECT_EQ(ctxrt_generate(runtime, ids, 2, &options, nullptr, nullptr, nullptr, &generation), CTXRT_ERROR_INPUT);
  EXPECT_EQ(generation, nullptr);
  ctxrt_generation_free(nullptr);
  ctxrt_close(runtime);
}

}  // namespace
}  // namespace ctxrt::tests
