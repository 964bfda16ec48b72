// The C interface: handles, codes, and what a careless caller does.
#include <gtest/gtest.h>

#include <cstring>

#include "cases.h"
#include "ctxrt/ctxrt.h"
#include "ctxrt/ctxrt.hpp"

namespace ctxrt::tests {
namespace {

class CApi : public testing::Test {
 protected:
  std::string bundle() const { return make_bundle(folder_.path(), Json::object()).string(); }

  TemporaryFolder folder_;
};

TEST_F(CApi, ARefusedBundleHasItsCode) {
  ctxrt_runtime* runtime = nullptr;
  EXPECT_EQ(ctxrt_open("/nowhere", nullptr, &runtime), CTXRT_ERROR_BUNDLE);
  EXPECT_STREQ(ctxrt_error_code(), "not-a-bundle");
  EXPECT_NE(std::strlen(ctxrt_error_message()), 0U);
  EXPECT_NE(std::strlen(ctxrt_error_hint()), 0U);
  EXPECT_EQ(runtime, nullptr);
}

TEST_F(CApi, NullPointersAndUnknownNamesAreInputErrors) {
  ctxrt_runtime* runtime = nullptr;
  EXPECT_EQ(ctxrt_open(nullptr, nullptr, &runtime), CTXRT_ERROR_INPUT);
  EXPECT_EQ(ctxrt_open("x", nullptr, nullptr), CTXRT_ERROR_INPUT);
  const char* backend = "abacus";
  const ctxrt_options options{CTXRT_SHARE_DEFAULT, 0, &backend, 1, CTXRT_CHECK_FULL, 0};
  EXPECT_EQ(ctxrt_open("x", &options, &runtime), CTXRT_ERROR_INPUT);
  ASSERT_EQ(ctxrt_open(bundle().c_str(), nullptr, &runtime), CTXRT_OK) << ctxrt_error_message();
  ctxrt_result* result = nullptr;
  const ctxrt_inputs none{nullptr, 1};
  EXPECT_EQ(ctxrt_run(runtime, &none, nullptr, &result), CTXRT_ERROR_INPUT);
  const std::int64_t ids[]{1, 2}, shape[]{2}, negative[]{-2};
  for (const ctxrt_tensor& tensor : {ctxrt_tensor{nullptr, CTXRT_INT64, shape, 1, ids},
                                     {"input_ids", CTXRT_INT64, nullptr, 1, ids},
                                     {"input_ids", CTXRT_INT64, negative, 1, ids},
                                     {"input_ids", CTXRT_INT64, shape, 1, nullptr},
                                     {"input_ids", static_cast<ctxrt_dtype>(17), shape, 1, ids},
                                     {"ids", CTXRT_INT64, shape, 1, ids}}) {
    const ctxrt_inputs inputs{&tensor, 1};
    EXPECT_EQ(ctxrt_run(runtime, &inputs, nullptr, &result), CTXRT_ERROR_INPUT);
  }
  EXPECT_EQ(result, nullptr);
  ctxrt_close(runtime);
}

TEST_F(CApi, HashesMayBeLeftOut) {
  const Json wrong_hash{
      {"manifest", {{{"op", "replace"}, {"path", "/files/0/sha256"}, {"value", std::string(64, '0')}}}}};
  const std::string path = make_bundle(folder_.path(), wrong_hash).string();
  ctxrt_runtime* runtime = nullptr;
  for (const auto check : {CTXRT_CHECK_CHANGED, CTXRT_CHECK_FULL}) {
    const ctxrt_options options{CTXRT_SHARE_DEFAULT, 0, nullptr, 0, check, 0};
    EXPECT_EQ(ctxrt_open(path.c_str(), &options, &runtime), CTXRT_ERROR_BUNDLE);
    EXPECT_STREQ(ctxrt_error_code(), "file-hash");
  }
  const ctxrt_options options{CTXRT_SHARE_DEFAULT, 0, nullptr, 0, CTXRT_CHECK_SIZES, 0};
  EXPECT_EQ(ctxrt_open(path.c_str(), &options, &runtime), CTXRT_OK);
  ctxrt_close(runtime);
}

TEST_F(CApi, FreeingNothingIsFine) {
  ctxrt_close(nullptr);
  ctxrt_result_free(nullptr);
  ctxrt_cancel_free(nullptr);
  ctxrt_cancel_now(nullptr);
  ctxrt_stats_free(nullptr);
  ctxrt_report_free(nullptr);
  ctxrt_explanation_free(nullptr);
}

TEST_F(CApi, AResultOutlivesItsRuntime) {
  CTXRT_NEEDS_ONNXRUNTIME();
  std::unique_ptr<Result> result;
  const std::vector<std::int64_t> ids{5, 6, 7};
  {
    Runtime runtime(bundle());
    result = std::make_unique<Result>(runtime.run({input<std::int64_t>("input_ids", ids, {3})}));
  }
  EXPECT_EQ(result->output("hidden").values<float>().size(), 12U);
  EXPECT_EQ(result->dispatch().length, 3);
  EXPECT_STREQ(result->dispatch().bucket, "ctx-16");
  EXPECT_THROW(result->output("nothing"), Failure);
  EXPECT_THROW(result->output("hidden").values<double>(), std::invalid_argument);
}

TEST_F(CApi, TheFaceTellsWhatRan) {
  CTXRT_NEEDS_ONNXRUNTIME();
  Runtime runtime(bundle());
  EXPECT_EQ(runtime.max_length(), 48);
  EXPECT_EQ(runtime.manifest_sha256().size(), 64U);
  const std::vector<std::int64_t> ids(20, 9);
  const std::vector<std::vector<Input>> inputs{{input<std::int64_t>("input_ids", ids, {20})},
                                               {input<std::int64_t>("input_ids", ids, {2, 10})}};
  const auto results = runtime.run_many(inputs);
  ASSERT_EQ(results.size(), 2U);
  EXPECT_EQ(results[1].rows(), 2U);
  EXPECT_EQ(results[1].output("pooled").shape()[0], 2);
  EXPECT_EQ(runtime.stats().pool().buckets, 2U);
  EXPECT_EQ(runtime.stats().bucket(0).rows, 2);
  EXPECT_THROW(runtime.stats().fallback(0), Failure);
  EXPECT_EQ(runtime.explain(200).get().segments, 5);
  const auto report = runtime.verify();
  EXPECT_TRUE(report.passed());
  EXPECT_LT(report.parity_case(0).max_abs, 1e-5);
  Cancel cancel;
  cancel.now();
  try {
    runtime.run(inputs[0], &cancel);
    FAIL();
  } catch (const Failure& failure) {
    EXPECT_EQ(failure.status(), CTXRT_ERROR_CANCELLED);
  }
}

}  // namespace
}  // namespace ctxrt::tests
