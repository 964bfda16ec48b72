// Proves a bundle on the device, without PyTorch: golden inputs through the backends, against the stored outputs.
#include <algorithm>

#include "decoding.h"
#include "fusing.h"
#include "golden_vectors.h"
#include "parity.h"

namespace ctxrt::core {
namespace {

// The last tokens of a golden text, each the one that PyTorch finds most likely after those before it.
constexpr std::size_t kGreedyTokens = 16;
// What cases of rows in segments, which the model fuses itself, have in the place of a bucket.
constexpr const char* kFusion = "fusion";

// Keeps the stored positions of the token outputs; the number of them that each row reaches.
std::vector<std::int64_t> pick_positions(const GoldenCase& one, const Manifest& manifest, Tensors& actual) {
  for (const auto& spec : manifest.outputs) {
    if (const auto axis = spec.length_axis()) actual[spec.name] = take(actual[spec.name], *axis, *one.positions);
  }
  std::vector<std::int64_t> counts;
  for (const auto length : one.lengths) {
    counts.push_back(std::lower_bound(one.positions->begin(), one.positions->end(), length) - one.positions->begin());
  }
  return counts;
}

// Fills in the figures of `measured`, whose tolerance is set.
void measure(const GoldenCase& one, const Manifest& manifest, Tensors actual, ParityCase& measured) {
  measured.padded_to = one.padded_to;
  measured.lengths = one.positions ? pick_positions(one, manifest, actual) : one.lengths;
  compare(one.outputs, actual, manifest.outputs, measured);
  measured.lengths = one.lengths;
}

Result<ParityCase> run_case(Dispatcher& dispatcher, const Manifest& manifest, const Bucket& bucket,
                            const GoldenCase& one) {
  const bool full =
      std::all_of(one.lengths.begin(), one.lengths.end(), [&](auto length) { return length == one.padded_to; });
  ParityCase measured;
  measured.bucket = bucket.name;
  measured.form = full && manifest.find_role(Role::mask) != nullptr ? Form::unmasked : Form::masked;
  measured.tolerance = bucket.tolerance;
  CTXRT_ASSIGN(const auto session, dispatcher.session(bucket, measured.form));
  CTXRT_ASSIGN(auto actual, session->run(one.inputs, bucket, nullptr));
  for (const auto& spec : manifest.outputs) {
    CTXRT_CHECK(check_shape(actual.find(spec.name)->second, spec, std::ssize(one.lengths), one.padded_to));
  }
  measure(one, manifest, std::move(actual), measured);
  return measured;
}

// A text through a decoder; `top1` is the share of its greedy tokens that the bucket finds most likely too.
Result<ParityCase> run_text(Dispatcher& dispatcher, const Manifest& manifest, const Bucket& bucket,
                            const GoldenCase& one) {
  if (one.padded_to > bucket.max_length) return backend_error("a text of its golden vectors does not fit");
  const Tensor row = row_of(one.inputs.find("input_ids")->second, 0);
  const auto ids = row.as<std::int64_t>();
  const std::size_t greedy = std::min(kGreedyTokens, ids.size() - 1), given = ids.size() - greedy;
  const Ladder ladder(manifest, 1, std::nullopt);
  CTXRT_ASSIGN(auto cache, KVCache::make(*manifest.decoder, bucket.max_length));
  Decoding decoding(*manifest.decoder, dispatcher, ladder, bucket, std::move(cache), nullptr);
  CTXRT_ASSIGN(auto logits, decoding.read(ids.first(given)));
  std::size_t same = 0;
  for (std::size_t read = given; read < ids.size(); ++read) {
    same += std::max_element(logits.begin(), logits.end()) - logits.begin() == ids[read] ? 1 : 0;
    CTXRT_ASSIGN(logits, decoding.read(ids.first(read + 1)));
  }
  ParityCase measured;
  measured.bucket = bucket.name;
  measured.form = Form::masked;
  measured.tolerance = bucket.tolerance;
  const std::vector<double> numbers(logits.begin(), logits.end());
  measure(one, manifest, {{"logits", from_doubles(numbers, DType::float32, {1, std::ssize(numbers)})}}, measured);
  if (greedy > 0) measured.top1 = static_cast<double>(same) / static_cast<double>(greedy);
  return measured;
}

Status verify_bucket(Dispatcher& dispatcher, const Bundle& bundle, const Bucket& bucket,
                     std::vector<ParityCase>& cases) {
  CTXRT_ASSIGN(const auto golden, read_golden(bundle.path(*bucket.golden), bundle.manifest));
  for (const auto& one : golden) {
    const auto run = bundle.manifest.decoder ? run_text : run_case;
    CTXRT_ASSIGN(auto measured, run(dispatcher, bundle.manifest, bucket, one));
    cases.push_back(std::move(measured));
  }
  return Unit{};
}

Result<ParityCase> run_fused_case(Fuser& fuser, const Manifest& manifest, const GoldenCase& one) {
  ParityCase measured;
  measured.bucket = kFusion;
  measured.form = Form::unmasked;
  measured.tolerance = manifest.buckets.back().tolerance;
  CTXRT_ASSIGN(const auto given, read_rows(one.inputs, manifest));
  std::vector<Tensors> rows;
  for (const auto& row : given.rows) {
    if (row.length <= manifest.max_length()) return backend_error("a row of its golden vectors fits a bucket");
    CTXRT_ASSIGN(auto fused, fuser.run(row, nullptr));
    rows.push_back(std::move(fused.outputs));
  }
  measure(one, manifest, join_rows(rows, manifest.outputs, one.padded_to), measured);
  return measured;
}

// The golden rows in segments, in the place of whose bucket stands `fusion`.
Status verify_fusion(Dispatcher& dispatcher, const Bundle& bundle, std::vector<ParityCase>& cases) {
  const auto& manifest = bundle.manifest;
  if (!manifest.fusion->golden) return backend_error("the bundle carries no golden vectors for it");
  CTXRT_ASSIGN(const auto golden, read_golden(bundle.path(*manifest.fusion->golden), manifest));
  const Chooser chooser{manifest, std::nullopt};
  Fuser fuser(chooser, dispatcher);
  for (const auto& one : golden) {
    CTXRT_ASSIGN(auto measured, run_fused_case(fuser, manifest, one));
    cases.push_back(std::move(measured));
  }
  return Unit{};
}

// Keeps the reason where nothing here serves what was verified; any other error ends the verification.
Status note(const Status& verified, const std::string& what, ParityReport& report) {
  if (verified) return Unit{};
  if (verified.error().kind != ErrorKind::backend) return verified.error();
  report.unverified[what] = verified.error().message;
  return Unit{};
}

}  // namespace

Result<ParityReport> verify(const Bundle& bundle, const DispatcherOptions& options) {
  Dispatcher dispatcher(bundle, options);
  ParityReport report;
  for (const auto& bucket : bundle.manifest.buckets) {
    if (!bucket.golden) {
      report.unverified[bucket.name] = "the bundle carries no golden vectors for it";
      continue;
    }
    CTXRT_CHECK(note(verify_bucket(dispatcher, bundle, bucket, report.cases), bucket.name, report));
  }
  if (bundle.manifest.fusion) CTXRT_CHECK(note(verify_fusion(dispatcher, bundle, report.cases), kFusion, report));
  return report;
}

}  // namespace ctxrt::core
