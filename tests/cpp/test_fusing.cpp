// Rows longer than every bucket of the bundle `fused`, whose model fuses segments itself: what is told of them.
#include "fusing.h"

#include <gtest/gtest.h>

#include <thread>

#include "cases.h"
#include "parity.h"
#include "runtime.h"

namespace ctxrt::tests {
namespace {

core::Tensors request(std::int64_t length) {
  std::vector<double> ids(length);
  for (std::int64_t i = 0; i < length; ++i) ids[i] = static_cast<double>(3 + i * 7 % 61);
  return {{"input_ids", core::from_doubles(ids, core::DType::int64, {length})}};
}

Json replace(const std::string& path, const Json& value) {
  return {{"op", "replace"}, {"path", path}, {"value", value}};
}

// Known to be good to 0.9 up to 48 tokens, to 0.7 up to 96, and not known beyond.
Json rated() {
  const auto record = [](int low, int high, double value) {
    return Json{{"min_length", low}, {"max_length", high}, {"subnetwork", nullptr}, {"metric", "f1"},
                {"value", value},    {"loss", nullptr},    {"examples", 5},         {"latency_ms", nullptr}};
  };
  return Json::array({replace("/quality", Json::array({record(1, 48, 0.9), record(49, 96, 0.7)}))});
}

class OnFused : public testing::Test {
 protected:
  void SetUp() override { CTXRT_NEEDS_ONNXRUNTIME(); }

  core::Result<std::unique_ptr<core::Runtime>> open(const Json& changes = Json::array(),
                                                    const core::Runtime::Options& options = {}) {
    return core::Runtime::open(made(changes), options);
  }
  std::filesystem::path made(const Json& changes) {
    return make_bundle(folder_.path(), {{"bundle", "fused"}, {"manifest", changes}});
  }

  TemporaryFolder folder_;
};

TEST_F(OnFused, ABatchKeepsItsOrderAndIsCounted) {
  const auto runtime = *open();
  std::vector<core::Tensors> inputs;
  for (const std::int64_t length : {50, 3, 97, 48, 20}) inputs.push_back(request(length));
  const auto together = runtime->run(inputs);
  ASSERT_TRUE(together) << together.error().message;
  const auto stats = runtime->stats().buckets.at("ctx-48");
  EXPECT_EQ(stats.fused, 2);
  EXPECT_EQ(stats.tokens, 5 * 48 + 48 + 20);
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const auto alone = runtime->run({&inputs[i], 1});
    ASSERT_TRUE(alone);
    for (const auto& [name, tensor] : alone->front().outputs) {
      EXPECT_EQ(core::to_doubles((*together)[i].outputs.at(name)), core::to_doubles(tensor));
    }
  }
}

TEST_F(OnFused, ExplainTellsTheSegments) {
  const auto runtime = *open();
  const auto told = runtime->explain(97, 1);
  ASSERT_TRUE(told) << told.error().message;
  EXPECT_EQ(told->bucket, "ctx-48");
  EXPECT_EQ(told->segments, 3);
  EXPECT_EQ(told->reason, "97 tokens in 3 segments of 48, fused by the model");
  EXPECT_EQ(runtime->explain(48, 1)->reason, "48 tokens fit 17..48");
}

TEST_F(OnFused, GoldenRowsInSegmentsAreVerified) {
  const auto report = core::verify(*core::open_bundle(made(Json::array())), {});
  ASSERT_TRUE(report) << report.error().message;
  EXPECT_TRUE(report->passed());
  EXPECT_EQ(report->cases.back().bucket, "fusion");
  EXPECT_EQ(report->cases.back().lengths, std::vector<std::int64_t>{97});
  EXPECT_LT(report->cases.back().max_abs, 1e-6);
}

TEST_F(OnFused, AFusionOfOtherSegmentsFails) {
  const auto bundle = core::open_bundle(made(Json::array({replace("/overflow/overlap", 40)})));
  ASSERT_TRUE(bundle) << bundle.error().message;
  const auto report = core::verify(*bundle, {});
  ASSERT_TRUE(report) << report.error().message;
  EXPECT_FALSE(report->cases.back().passed);
}

TEST_F(OnFused, WithoutGoldenVectorsItIsUnverified) {
  const auto report = core::verify(*core::open_bundle(made(Json::array({replace("/fusion/golden", nullptr)}))), {});
  ASSERT_TRUE(report);
  EXPECT_FALSE(report->passed());
  EXPECT_EQ(report->unverified.at("fusion"), "the bundle carries no golden vectors for it");
}

TEST_F(OnFused, ThreadsShareAPoolThatHoldsOneSession) {
  const auto runtime = *open(Json::array({replace("/session_budget", 9 << 20)}));
  const auto inputs = request(120);
  const auto expected = core::to_doubles(runtime->run({&inputs, 1})->front().outputs.at("states"));
  std::atomic<int> wrong{0};
  {
    std::vector<std::jthread> workers;
    for (int worker = 0; worker < 4; ++worker) {
      workers.emplace_back([&] {
        for (int i = 0; i < 5; ++i) {
          const auto results = runtime->run({&inputs, 1});
          wrong += !results || core::to_doubles(results->front().outputs.at("states")) != expected;
        }
      });
    }
  }
  EXPECT_EQ(wrong, 0);
  EXPECT_GE(runtime->stats().pool.evictions, 2);
}

TEST_F(OnFused, ACancelledRunEndsWithItsOwnError) {
  const auto runtime = *open();
  core::CancelToken token;
  token.cancel();
  const auto inputs = request(120);
  EXPECT_EQ(runtime->run({&inputs, 1}, &token).error().kind, core::ErrorKind::cancelled);
}

TEST_F(OnFused, AFloorOfQualityMayBeGivenAtOpening) {
  core::Runtime::Options options;
  options.min_quality = 0.8;
  const auto runtime = open(rated(), options);
  ASSERT_TRUE(runtime) << runtime.error().message;
  EXPECT_TRUE((*runtime)->explain(48, 1));
  const auto refused = (*runtime)->explain(96, 1);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().kind, core::ErrorKind::quality);
  EXPECT_EQ(refused.error().message, "96 tokens run nowhere with a quality of 0.8: the best is f1 0.7 in ctx-48");
}

TEST_F(OnFused, AFloorNeedsATable) {
  core::Runtime::Options options;
  options.min_quality = 0.5;
  const auto refused = open(Json::array(), options);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().kind, core::ErrorKind::quality);
  EXPECT_EQ(refused.error().message, "the bundle has no table of quality");
}

}  // namespace
}  // namespace ctxrt::tests
