// Proves a bundle on the device, without PyTorch: golden inputs through the backends, against the stored outputs.
#include <algorithm>
#include <set>

#include "npz.h"
#include "parity.h"

namespace ctxrt::core {
namespace {

// One stored run: arrays (batch, longest, …), the rows' lengths, and PyTorch's outputs.
struct GoldenCase {
  Tensors inputs, outputs;
  std::vector<std::int64_t> lengths;
  std::optional<std::vector<std::int64_t>> positions;  // token outputs are stored at these positions only, ascending
};

std::vector<std::int64_t> to_integers(const Tensor& tensor) {
  const auto numbers = to_doubles(tensor);
  return {numbers.begin(), numbers.end()};
}

Result<GoldenCase> read_case(const Tensors& arrays, const std::string& prefix, const Manifest& manifest) {
  GoldenCase one;
  std::string missing;
  const auto find = [&](const std::string& name) {
    const auto found = arrays.find(text(prefix, ".", name));
    if (found == arrays.end()) missing = text(prefix, ".", name);
    return found == arrays.end() ? Tensor{} : found->second;
  };
  for (const auto& spec : manifest.inputs) one.inputs[spec.name] = find("in." + spec.name);
  for (const auto& spec : manifest.outputs) one.outputs[spec.name] = find("out." + spec.name);
  const Tensor lengths = find("lengths");
  if (!missing.empty()) return bundle_error("golden-syntax", text("the golden vectors have no array '", missing, "'"));
  one.lengths = to_integers(lengths);
  if (const auto positions = arrays.find(prefix + ".positions"); positions != arrays.end()) {
    one.positions = to_integers(positions->second);
  }
  return one;
}

// The length that the rows of a case are padded to; none if an array has not the batch and length of the others.
std::optional<std::int64_t> padded_length(const GoldenCase& one, const Manifest& manifest) {
  std::int64_t longest = 0;
  for (const auto& spec : manifest.inputs) {
    const auto& shape = one.inputs.at(spec.name).shape;
    if (shape.size() != spec.shape.size() || shape[0] != std::ssize(one.lengths)) return std::nullopt;
    if (const auto axis = spec.length_axis()) longest = std::max(longest, shape[*axis]);
  }
  for (const auto& spec : manifest.outputs) {
    const auto& shape = one.outputs.at(spec.name).shape;
    if (shape.size() != spec.shape.size() || shape[0] != std::ssize(one.lengths)) return std::nullopt;
  }
  const auto outside = [longest](std::int64_t position) { return position < 0 || position >= longest; };
  if (one.lengths.empty() || longest == 0) return std::nullopt;
  if (one.positions && std::any_of(one.positions->begin(), one.positions->end(), outside)) return std::nullopt;
  return longest;
}

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

Result<ParityCase> run_case(Dispatcher& dispatcher, const Manifest& manifest, const Bucket& bucket, const GoldenCase& one) {
  const auto padded_to = padded_length(one, manifest);
  if (!padded_to) return bundle_error("golden-syntax", text("the golden vectors of ", bucket.name, " have other shapes than the inputs"));
  const bool full = std::all_of(one.lengths.begin(), one.lengths.end(), [&](auto length) { return length == *padded_to; });
  ParityCase measured;
  measured.bucket = bucket.name;
  measured.form = full && manifest.find_role(Role::mask) != nullptr ? Form::unmasked : Form::masked;
  measured.padded_to = *padded_to;
  measured.tolerance = bucket.tolerance;
  CTXRT_ASSIGN(const auto session, dispatcher.session(bucket, measured.form));
  CTXRT_ASSIGN(auto actual, session->run(one.inputs, bucket, nullptr));
  measured.lengths = one.positions ? pick_positions(one, manifest, actual) : one.lengths;
  compare(one.outputs, actual, manifest.outputs, measured);
  measured.lengths = one.lengths;
  return measured;
}

Status verify_bucket(Dispatcher& dispatcher, const Bundle& bundle, const Bucket& bucket, std::vector<ParityCase>& cases) {
  const auto arrays = read_npz(bundle.path(*bucket.golden), kMaxGoldenBytes);
  if (!arrays) return bundle_error("golden-syntax", arrays.error().message);
  std::set<std::string> prefixes;
  for (const auto& [name, array] : *arrays) prefixes.insert(name.substr(0, name.find('.')));
  for (std::size_t index = 0; index < prefixes.size(); ++index) {
    CTXRT_ASSIGN(const auto one, read_case(*arrays, text("case", index), bundle.manifest));
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
  return report;
}

}  // namespace ctxrt::core
