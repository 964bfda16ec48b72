#include <cmath>

#include "commands.h"
#include "manifest_reader.h"
#include "parity.h"
#include "tables.h"

namespace ctxrt::command {
namespace {

using core::text;

std::string shape_of(const core::Shape& shape) {
  std::string out;
  for (const auto size : shape) {
    out += out.empty() ? "(" : ", ";
    out += size == core::kBatch ? "batch" : size == core::kLength ? "length" : std::to_string(size);
  }
  return out + ")";
}

void print_bundle(const core::Bundle& bundle) {
  const auto& manifest = bundle.manifest;
  double bytes = 0;
  for (const auto& file : manifest.files) bytes += static_cast<double>(file.bytes);
  print_table({{text(manifest.name, ": ", manifest.task, ", ", fixed(bytes / 1e6, 1), " MB, ", manifest.source.kind)}});
  std::vector<Cells> tensors{{"tensor", "name", "dtype", "shape"}};
  const auto add = [&](const char* kind, const core::TensorSpec& spec) {
    tensors.push_back({kind, spec.name, std::string(core::dtype_name(spec.dtype)), shape_of(spec.shape)});
  };
  for (const auto& spec : manifest.inputs) add("input", spec);
  for (const auto& spec : manifest.outputs) add("output", spec);
  print_table(tensors);
  std::vector<Cells> buckets{{"bucket", "tokens", "batch", "precision", "backends", "graph"}};
  for (const auto& bucket : manifest.buckets) {
    std::string backends;
    for (const auto backend : bucket.backends) backends += text(backends.empty() ? "" : ", ", core::name_of(backend));
    buckets.push_back({bucket.name, text(bucket.min_length, "..", bucket.max_length),
                       text(bucket.batch.min, "..", bucket.batch.max), std::string(core::name_of(bucket.precision)),
                       backends, bucket.graph});
  }
  print_table(buckets);
  for (const auto& engine : manifest.engines) {
    print_table({{text("engine ", engine.file, ": ", core::name_of(engine.backend), " ", engine.library_version)}});
  }
  print_table({{text("longer than ", manifest.max_length(), " tokens: ", core::name_of(manifest.overflow.policy),
                     ", overlap ", manifest.overflow.overlap)}});
}

nlohmann::ordered_json to_json(const core::ParityCase& one) {
  const auto finite = [](double number) {
    return std::isfinite(number) ? nlohmann::ordered_json(number) : nlohmann::ordered_json();
  };
  return {{"bucket", one.bucket},
          {"form", core::name_of(one.form)},
          {"length", one.length()},
          {"batch", one.lengths.size()},
          {"lengths", one.lengths},
          {"padded_to", one.padded_to},
          {"max_abs", finite(one.max_abs)},
          {"max_rel", finite(one.max_rel)},
          {"cosine", finite(one.cosine)},
          {"top1", finite(one.top1)},
          {"tolerance", {{"max_abs", one.tolerance.max_abs}, {"min_cosine", one.tolerance.min_cosine}}},
          {"passed", one.passed}};
}

}  // namespace

core::Result<int> inspect(const Arguments& arguments) {
  CTXRT_ASSIGN(const auto bundle, core::open_bundle(arguments.bundle));
  if (!arguments.has("--json")) {
    print_bundle(bundle);
    return 0;
  }
  CTXRT_ASSIGN(const auto data, core::read_file(bundle.path("manifest.json"), core::kMaxManifestBytes));
  const auto* characters = reinterpret_cast<const char*>(data.data());
  print_json({{"bundle", bundle.root.string()},
              {"manifest_sha256", bundle.manifest_sha256},
              {"manifest", nlohmann::ordered_json::parse(characters, characters + data.size())}});
  return 0;
}

core::Result<int> verify(const Arguments& arguments) {
  CTXRT_ASSIGN(const auto bundle, core::open_bundle(arguments.bundle, core::Check::full));
  CTXRT_ASSIGN(const auto report, core::verify(bundle, {{}, bundle.manifest.share_weights, std::nullopt}));
  if (arguments.has("--json")) {
    auto cases = nlohmann::ordered_json::array();
    for (const auto& one : report.cases) cases.push_back(to_json(one));
    print_json({{"passed", report.passed()}, {"unverified", report.unverified}, {"cases", cases}});
  } else {
    std::vector<Cells> rows{{"bucket", "graph", "length", "batch", "max abs", "cosine", "parity"}};
    for (const auto& one : report.cases) {
      rows.push_back({one.bucket, std::string(core::name_of(one.form)), text(one.length()), text(one.lengths.size()),
                      fixed(one.max_abs, 7), fixed(one.cosine, 6), one.passed ? "pass" : "FAIL"});
    }
    for (const auto& [bucket, reason] : report.unverified)
      rows.push_back({bucket, "", "", "", "", "", "unverified: " + reason});
    print_table(rows);
  }
  return report.passed() ? 0 : 1;
}

}  // namespace ctxrt::command
