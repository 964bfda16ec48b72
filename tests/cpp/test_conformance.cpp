// The conformance cases, run by C++; tests/cross/test_conformance.py runs the same files.
#include "batching.h"
#include "bundle.h"
#include "cases.h"
#include "choosing.h"
#include "padding.h"
#include "parity.h"
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

CTXRT_CASES_OF(Verifying, "verify") {
  CTXRT_NEEDS_ONNXRUNTIME();
  const TemporaryFolder folder;
  const auto bundle = core::open_bundle(make_bundle(folder.path(), GetParam()));
  ASSERT_TRUE(bundle) << bundle.error().message;
  const auto report = core::verify(*bundle, {});
  ASSERT_TRUE(report) << report.error().message;
  EXPECT_TRUE(report->passed());
  Json cases;
  for (const auto& one : report->cases) cases.push_back({one.bucket, one.length(), one.top1});
  EXPECT_EQ(cases, GetParam()["cases"]);
}

CTXRT_CASES_OF(Random, "random") {
  core::RandomStream random(GetParam()["seed"]);
  for (const double number : GetParam()["numbers"]) EXPECT_EQ(random.uniform(), number);
}

core::GenerationSettings settings_of(const Json& json) {
  core::GenerationSettings settings;
  if (json.contains("max_new_tokens")) settings.max_new_tokens = json["max_new_tokens"];
  if (json.contains("top_k")) settings.top_k = json["top_k"];
  if (json.contains("seed")) settings.seed = json["seed"];
  if (json.contains("logprobs")) settings.logprobs = json["logprobs"];
  settings.temperature = json.value("temperature", 0.0);
  settings.top_p = json.value("top_p", 1.0);
  settings.min_p = json.value("min_p", 0.0);
  settings.repetition_penalty = json.value("repetition_penalty", 1.0);
  settings.stop_ids = json.value("stop_ids", std::set<std::int64_t>());
  return settings;
}

CTXRT_CASES_OF(Sampling, "sampling") {
  const auto settings = settings_of(GetParam()["settings"]);
  const std::vector<float> logits = GetParam()["logits"];
  core::Sampler sampler(settings);
  for (const std::int64_t token : GetParam()["tokens"]) EXPECT_EQ(sampler.pick(logits, GetParam()["seen"]), token);
}

void expect_refused(const core::Error& error, const Json& call) {
  EXPECT_EQ(class_of(error), call["error"].get<std::string>());
  EXPECT_NE(error.message.find(call["message"].get<std::string>()), std::string::npos) << error.message;
  EXPECT_EQ(error.hint, call.value("hint", error.hint));
}

void expect_answer(const core::Generation& generation, const Json& call) {
  std::vector<std::int64_t> ids;
  for (const auto& token : generation.tokens) ids.push_back(token.id);
  EXPECT_EQ(Json(ids), call["tokens"]);
  EXPECT_EQ(core::name_of(generation.finish_reason), call["finish_reason"].get<std::string>());
  const auto& ran = generation.dispatch;
  EXPECT_EQ(Json({{"prompt_tokens", ran.prompt_tokens},
                  {"reused_tokens", ran.reused_tokens},
                  {"buckets", ran.buckets},
                  {"backend", core::name_of(ran.backend)},
                  {"cache_bytes", ran.cache_bytes},
                  {"reason", ran.reason}}),
            call["dispatch"]);
  for (std::size_t i = 0; i < ids.size() && call.contains("logprobs"); ++i) {
    const auto& [logprob, top] = std::pair(call["logprobs"][i][0], call["logprobs"][i][1]);
    EXPECT_NEAR(generation.tokens[i].logprob, logprob.get<double>(), 1e-4);
    std::vector<std::int64_t> likely;
    for (const auto& token : generation.tokens[i].top) likely.push_back(token.id);
    EXPECT_EQ(Json(likely), top);
  }
}

// The prompts of a case run one after the other; those before have left their cache.
CTXRT_CASES_OF(Generate, "generate") {
  CTXRT_NEEDS_ONNXRUNTIME();
  const TemporaryFolder folder;
  const auto runtime = core::Runtime::open(make_bundle(folder.path(), GetParam()), {});
  ASSERT_TRUE(runtime) << runtime.error().message;
  for (const auto& call : GetParam()["calls"]) {
    const std::vector<std::int64_t> ids = call["ids"];
    const auto generation = (*runtime)->generate(ids, settings_of(call["settings"]));
    ASSERT_EQ(static_cast<bool>(generation), !call.contains("error"));
    generation ? expect_answer(*generation, call) : expect_refused(generation.error(), call);
  }
}

}  // namespace
}  // namespace ctxrt::tests
