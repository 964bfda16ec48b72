// The runtime on the bundle `tiny`, whose answers are means of embeddings: threads, cancelling, budgets, fallbacks.
#include "runtime.h"

#include <gtest/gtest.h>

#include <random>
#include <thread>

#include "cases.h"
#include "parity.h"

namespace ctxrt::tests {
namespace {

core::Tensors request(std::int64_t length, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<double> ids(length);
  for (auto& id : ids) id = static_cast<double>(random() % 64);
  return {{"input_ids", core::from_doubles(ids, core::DType::int64, {length})}};
}

class OnTiny : public testing::Test {
 protected:
  void SetUp() override { CTXRT_NEEDS_ONNXRUNTIME(); }

  std::unique_ptr<core::Runtime> open(const Json& changes = Json::object(),
                                      const core::Runtime::Options& options = {}) {
    auto runtime = core::Runtime::open(make_bundle(folder_.path(), changes), options);
    if (!runtime) throw std::runtime_error(runtime.error().message);
    return *std::move(runtime);
  }

  TemporaryFolder folder_;
};

std::vector<double> pooled(core::Runtime& runtime, const core::Tensors& inputs) {
  const auto results = runtime.run({&inputs, 1});
  if (!results) throw std::runtime_error(results.error().message);
  return core::to_doubles(results->front().outputs.at("pooled"));
}

TEST_F(OnTiny, ThreadsGetTheAnswersOfOneThread) {
  constexpr int threads = 8, requests = 500;
  const auto runtime = open();
  std::vector<core::Tensors> inputs;
  std::vector<std::vector<double>> expected;
  for (int i = 0; i < requests; ++i) {
    inputs.push_back(request(1 + i * 37 % 120, i));
    expected.push_back(pooled(*runtime, inputs.back()));
  }
  std::vector<int> matched(threads, 0);
  {
    std::vector<std::jthread> workers;
    for (int worker = 0; worker < threads; ++worker) {
      workers.emplace_back([&, worker] {
        for (int i = 0; i < requests; ++i) {
          const int index = (i * 7 + worker * 61) % requests;
          matched[worker] += pooled(*runtime, inputs[index]) == expected[index] ? 1 : 0;
        }
      });
    }
  }
  EXPECT_EQ(matched, std::vector<int>(threads, requests));
  EXPECT_EQ(runtime->stats().pool.open_sessions, 1U);
}

TEST_F(OnTiny, ThreadsShareAPoolThatHoldsOneSession) {
  const auto runtime = open({{"manifest",
                              {{{"op", "replace"}, {"path", "/buckets/0/precision"}, {"value", "int8"}},
                               {{"op", "replace"}, {"path", "/session_budget"}, {"value", 9 << 20}}}}});
  const auto expected_short = pooled(*runtime, request(5, 1)), expected_long = pooled(*runtime, request(40, 2));
  std::atomic<int> wrong{0};
  {
    std::vector<std::jthread> workers;
    for (int worker = 0; worker < 4; ++worker) {
      workers.emplace_back([&] {
        for (int i = 0; i < 20; ++i) {
          wrong += pooled(*runtime, request(5, 1)) != expected_short;
          wrong += pooled(*runtime, request(40, 2)) != expected_long;
        }
      });
    }
  }
  EXPECT_EQ(wrong, 0);
  EXPECT_GE(runtime->stats().pool.evictions, 1);
}

TEST_F(OnTiny, ABatchGivesTheAnswersOfSingleRuns) {
  const auto runtime = open();
  std::vector<core::Tensors> inputs;
  for (const std::int64_t length : {3, 16, 4, 17, 100, 3, 48})
    inputs.push_back(request(length, static_cast<std::uint32_t>(length)));
  const auto results = runtime->run(inputs);
  ASSERT_TRUE(results) << results.error().message;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const auto alone = pooled(*runtime, inputs[i]), together = core::to_doubles((*results)[i].outputs.at("pooled"));
    for (std::size_t j = 0; j < alone.size(); ++j) EXPECT_NEAR(alone[j], together[j], 1e-6);
  }
}

TEST_F(OnTiny, SharedWeightsChangeNoAnswer) {
  core::Runtime::Options off;
  off.share_weights = core::ShareWeights::off;
  const auto shared = open();
  TemporaryFolder other;
  const auto copied = core::Runtime::open(make_bundle(other.path(), Json::object()), off);
  ASSERT_TRUE(copied);
  EXPECT_EQ(pooled(*shared, request(33, 1)), pooled(**copied, request(33, 1)));
  EXPECT_TRUE(shared->stats().pool.fallbacks.empty());
}

TEST_F(OnTiny, ACancelledRunEndsWithItsOwnError) {
  const auto runtime = open();
  core::CancelToken token;
  token.cancel();
  const auto inputs = request(10, 1);
  const auto results = runtime->run({&inputs, 1}, &token);
  ASSERT_FALSE(results);
  EXPECT_EQ(results.error().kind, core::ErrorKind::cancelled);
  EXPECT_EQ(pooled(*runtime, inputs).size(), 4U);
}

TEST_F(OnTiny, AFallbackIsToldOnce) {
  core::Runtime::Options options;
  options.backends = {core::Backend::onnxruntime_tensorrt_rtx, core::Backend::tensorrt, core::Backend::onnxruntime_cpu};
  const auto runtime = open(Json::object(), options);
  for (int i = 0; i < 3; ++i) pooled(*runtime, request(10, 1));
  const auto fallbacks = runtime->stats().pool.fallbacks;
  ASSERT_EQ(fallbacks.size(), 2U);
  EXPECT_NE(fallbacks[0].reason.find("NvTensorRTRTXExecutionProvider"), std::string::npos);
  EXPECT_NE(fallbacks[1].reason.find("no tensorrt engine"), std::string::npos);
}

TEST_F(OnTiny, StatsCountWhatRan) {
  const auto runtime = open();
  pooled(*runtime, request(10, 1));
  pooled(*runtime, request(100, 1));
  const auto buckets = runtime->stats().buckets;
  EXPECT_EQ(buckets.at("ctx-16").tokens, 10);
  EXPECT_EQ(buckets.at("ctx-48").runs, 3);
  EXPECT_EQ(runtime->explain(100, 1)->segments, 3);
  runtime->close();
  const auto inputs = request(1, 1);
  EXPECT_EQ(runtime->run({&inputs, 1}).error().kind, core::ErrorKind::closed);
}

TEST_F(OnTiny, GoldenVectorsPassAndDamageFails) {
  const auto sound = open();
  const auto report = core::verify(sound->bundle(), {});
  ASSERT_TRUE(report) << report.error().message;
  EXPECT_TRUE(report->passed());
  EXPECT_EQ(report->cases.size(), 4U);
  TemporaryFolder other;
  const Json changed{
      {"files",
       {{{"path", "graphs/weights.bin"}, {"truncate", 0}}, {{"path", "graphs/weights.bin"}, {"truncate", 1792}}}},
      {"relist", true}};
  const auto zeros = core::open_bundle(make_bundle(other.path(), changed));
  ASSERT_TRUE(zeros) << zeros.error().message;
  EXPECT_FALSE(core::verify(*zeros, {})->passed());
}

}  // namespace
}  // namespace ctxrt::tests
