// Proves a bundle on the device, without PyTorch: golden inputs through the backends, against the stored outputs.
#include <algorithm>

#include "golden_vectors.h"
#include "parity.h"

namespace ctxrt::core {
namespace {

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

Result<ParityCase> run_case(Dispatcher& dispatcher, const Manifest& manifest, const Bucket& bucket,
                            const GoldenCase& one) {
  const bool full =
      std::all_of(one.lengths.begin(), one.lengths.end(), [&](auto length) { return length == one.padded_to; });
  ParityCase measured;
  measured.bucket = bucket.name;
  measured.form = full && manifest.find_role(Role::mask) != nullptr ? Form::unmasked : Form::masked;
  measured.padded_to = one.padded_to;
  measured.tolerance = bucket.tolerance;
  CTXRT_ASSIGN(const auto session, dispatcher.session(bucket, measured.form));
  CTXRT_ASSIGN(auto actual, session->run(one.inputs, bucket, nullptr));
  measured.lengths = one.positions ? pick_positions(one, manifest, actual) : one.lengths;
  compare(one.outputs, actual, manifest.outputs, measured);
  measured.lengths = one.lengths;
  return measured;
}

Status verify_bucket(Dispatcher& dispatcher, const Bundle& bundle, const Bucket& bucket,
                     std::vector<ParityCase>& cases) {
  CTXRT_ASSIGN(const auto golden, read_golden(bundle.path(*bucket.golden), bundle.manifest));
  for (const auto& one : golden) {
    CTXRT_ASSIGN(auto measured, run_case(dispatcher, bundle.manifest, bucket, one));
    cases.push_back(std::move(measured));
  }
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
    auto verified = verify_bucket(dispatcher, bundle, bucket, report.cases);
    if (!verified && verified.error().kind != ErrorKind::backend) return std::move(verified).error();
    if (!verified) report.unverified[bucket.name] = verified.error().message;
  }
  if (bundle.manifest.fusion) report.unverified["fusion"] = "this library runs no fusion of a model's own";
  return report;
}

}  // namespace ctxrt::core
