// The conformance cases, run by C++; tests/cross/test_conformance.py runs the same files.
#include "batching.h"
#include "bundle.h"
#include "cases.h"
#include "choosing.h"
#include "padding.h"
#include "runtime.h"
#include "segmenting.h"
#include "sha256.h"

namespace ctxrt::tests {
namespace {

std::string class_of(const core::Error& error) {
  switch (error.kind) {
    case core::ErrorKind::input:
      return "InputError";
    case core::ErrorKind::too_long:
      return "TooLongError";
    case core::ErrorKind::bundle:
      return "BundleError";
    case core::ErrorKind::backend:
      return "BackendError";
    case core::ErrorKind::memory_budget:
      return "MemoryBudgetError";
    case core::ErrorKind::time_budget:
      return "TimeBudgetError";
    case core::ErrorKind::quality:
      return "QualityError";
    case core::ErrorKind::missing_part:
      return "MissingExtraError";
    default:
      return "CtxError";
  }
}

// Same dtype, shape and numbers, but for `tolerance`, relative beyond 1.
void expect_close(const core::Tensor& actual, const core::Tensor& expected, double tolerance) {
  EXPECT_EQ(actual.dtype, expected.dtype);
  ASSERT_EQ(actual.shape, expected.shape);
  const auto a = core::to_doubles(actual), b = core::to_doubles(expected);
  for (std::size_t i = 0; i < a.size(); ++i)
    EXPECT_NEAR(a[i], b[i], tolerance * std::max(1.0, std::fabs(b[i]))) << "at " << i;
}

core::SegmentPlan plan_of(const Json& json) {
  return core::plan_segments(json["length"], json["window"], json["overlap"], {json["prefix"], json["suffix"]});
}

CTXRT_CASES_OF(Hash, "hash") {
  const std::string bytes = GetParam()["text"];
  EXPECT_EQ(core::sha256(std::as_bytes(std::span(bytes))), GetParam()["sha256"].get<std::string>());
}

CTXRT_CASES_OF(Parse, "parse") {
  const TemporaryFolder folder;
  const auto bundle = core::open_bundle(make_bundle(folder.path(), GetParam()));
  ASSERT_TRUE(bundle) << bundle.error().message;
  EXPECT_EQ(bundle->manifest.max_length(), GetParam()["max_length"].get<std::int64_t>());
  std::vector<std::string> networks;
  for (const auto& bucket : bundle->manifest.buckets) networks.push_back(bucket.network);
  EXPECT_EQ(networks, GetParam()["networks"].get<std::vector<std::string>>());
}

CTXRT_CASES_OF(Refuse, "refuse") {
  const TemporaryFolder folder;
  const auto bundle = core::open_bundle(make_bundle(folder.path(), GetParam()));
  ASSERT_FALSE(bundle);
  EXPECT_EQ(bundle.error().code, GetParam()["code"].get<std::string>()) << bundle.error().message;
}

CTXRT_CASES_OF(Dispatching, "dispatch") {
  const auto manifest = manifest_of(GetParam());
  const auto choice = core::Chooser{manifest, manifest.min_quality}.choose(GetParam()["length"], GetParam()["batch"]);
  if (GetParam().contains("error")) {
    ASSERT_FALSE(choice);
    EXPECT_EQ(class_of(choice.error()), GetParam()["error"].get<std::string>());
    return;
  }
  ASSERT_TRUE(choice) << choice.error().message;
  EXPECT_EQ(choice->bucket->name, GetParam()["bucket"].get<std::string>());
  EXPECT_EQ(choice->reason, GetParam()["reason"].get<std::string>());
}

CTXRT_CASES_OF(Batches, "batches") {
  const auto manifest = manifest_of(GetParam());
  std::vector<core::Job> jobs;
  for (const std::int64_t length : GetParam()["lengths"]) {
    jobs.push_back({{{}, length}, &manifest.buckets[*core::find_bucket(manifest.buckets, length)], false, ""});
  }
  EXPECT_EQ(core::form_batches(jobs, GetParam().value("may_pad", true)),
            GetParam()["batches"].get<std::vector<std::vector<std::size_t>>>());
}

CTXRT_CASES_OF(Padding, "padding") {
  const auto manifest = manifest_of(GetParam());
  const auto read = core::read_rows(arrays(GetParam()["inputs"]), manifest);
  if (GetParam().contains("error")) {
    ASSERT_FALSE(read);
    EXPECT_EQ(class_of(read.error()), GetParam()["error"].get<std::string>());
    return;
  }
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(read->batched, GetParam()["batched"].get<bool>());
  std::vector<const core::Row*> rows;
  std::vector<std::int64_t> lengths;
  for (const auto& row : read->rows) {
    rows.push_back(&row);
    lengths.push_back(row.length);
  }
  EXPECT_EQ(lengths, GetParam()["lengths"].get<std::vector<std::int64_t>>());
  const auto feeds = core::stack_rows(rows, manifest.inputs, true);
  const auto expected = arrays(GetParam()["feeds"]);
  ASSERT_EQ(feeds.size(), expected.size());
  for (const auto& [name, tensor] : expected) expect_close(feeds.at(name), tensor, 0);
}

CTXRT_CASES_OF(Segmentation, "segmentation") {
  const auto plan = plan_of(GetParam());
  std::vector<std::int64_t> starts;
  std::vector<std::vector<std::int64_t>> owned;
  for (const auto& segment : plan.segments) {
    starts.push_back(segment.start);
    owned.push_back({segment.owned_start, segment.owned_stop});
  }
  EXPECT_EQ(Json(starts), GetParam()["starts"]);
  EXPECT_EQ(Json(owned), GetParam()["owned"]);
  EXPECT_EQ(Json(plan.segments.front().indices), GetParam()["first"]);
  EXPECT_EQ(Json(plan.segments.back().indices), GetParam()["last"]);
}

CTXRT_CASES_OF(Fusing, "fusion") {
  const auto manifest = manifest_of({{"manifest",
                                      {{{"op", "replace"},
                                        {"path", "/outputs"},
                                        {"value",
                                         {{{"name", "out"},
                                           {"dtype", "float32"},
                                           {"shape", GetParam()["output"]["shape"]},
                                           {"fusion", GetParam()["output"]["fusion"]},
                                           {"normalized", GetParam()["output"]["normalized"]}}}}}}}});
  std::vector<core::Tensor> windows;
  for (const auto& window : GetParam()["windows"]) windows.push_back(array(window));
  expect_close(core::fuse(plan_of(GetParam()["plan"]), windows, manifest.outputs[0]), array(GetParam()["expected"]),
               1e-6);
}

CTXRT_CASES_OF(Run, "run") {
  CTXRT_NEEDS_ONNXRUNTIME();
  const TemporaryFolder folder;
  const auto runtime = core::Runtime::open(make_bundle(folder.path(), GetParam()), {});
  ASSERT_TRUE(runtime) << runtime.error().message;
  const auto inputs = arrays(GetParam()["inputs"]);
  const auto results = (*runtime)->run({&inputs, 1});
  if (GetParam().contains("error")) {
    ASSERT_FALSE(results);
    EXPECT_EQ(class_of(results.error()), GetParam()["error"].get<std::string>()) << results.error().message;
    return;
  }
  ASSERT_TRUE(results) << results.error().message;
  const auto& result = results->front();
  Json dispatch;
  for (const auto& row : result.dispatch) {
    dispatch.push_back({{"length", row.length},
                        {"bucket", row.bucket},
                        {"backend", core::name_of(row.backend)},
                        {"padding", row.padding},
                        {"segments", row.segments},
                        {"reason", row.reason}});
  }
  EXPECT_EQ(dispatch, GetParam()["dispatch"]);
  for (const auto& [name, expected] : GetParam()["outputs"].items()) {
    if (expected.is_array()) {
      EXPECT_EQ(Json(result.outputs.at(name).shape), expected);
    } else {
      expect_close(result.outputs.at(name), array(expected), 1e-6);
    }
  }
}

}  // namespace
}  // namespace ctxrt::tests
