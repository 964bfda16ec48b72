#include "bundle.h"

#include <algorithm>
#include <atomic>
#include <future>
#include <iterator>
#include <optional>
#include <set>
#include <thread>

#include "bundle_tree.h"
#include "golden_vectors.h"
#include "hash_records.h"
#include "manifest_reader.h"
#include "onnx_scan.h"
#include "sha256.h"

namespace ctxrt::core {
namespace {

Status check_buckets(const Manifest& manifest) {
  std::int64_t expected = 1;
  for (const auto& bucket : manifest.buckets) {
    if (bucket.min_length != expected) {
      return bundle_error("buckets",
                          text("manifest.json: ", bucket.min_length > expected ? "a gap" : "an overlap", " before ",
                               bucket.name, ": it starts at ", bucket.min_length, ", expected ", expected));
    }
    expected = bucket.max_length + 1;
  }
  return Unit{};
}

Status check_references(const Manifest& manifest) {
  std::set<std::string> listed, names;
  for (const auto& record : manifest.files) listed.insert(record.path);
  std::vector<std::optional<std::string>> referenced{manifest.weights, manifest.tokenizer, manifest.parity_report};
  for (const auto& bucket : manifest.buckets) {
    names.insert(bucket.name);
    referenced.insert(referenced.end(), {bucket.graph, bucket.unmasked_graph, bucket.golden});
  }
  if (const auto& fusion = manifest.fusion) {
    referenced.insert(referenced.end(), {fusion->segment, fusion->fuse, fusion->finish, fusion->golden});
  }
  if (manifest.decoder) referenced.push_back(manifest.decoder->chat_template);
  for (const auto& engine : manifest.engines) {
    referenced.emplace_back(engine.file);
    for (const auto& [bucket, index] : engine.optimization_profiles) {
      if (!names.contains(bucket)) {
        return bundle_error("reference", text(engine.file, " serves '", bucket, "', which is not a bucket"));
      }
    }
  }
  for (const auto& path : referenced) {
    if (path && !listed.contains(*path)) {
      return bundle_error("reference", text("manifest.json refers to '", *path, "', which it does not list"));
    }
  }
  return Unit{};
}

Status check_hash(const Path& root, const FileRecord& record, bool recorded) {
  const auto equal = has_sha256(root / record.path, record.sha256, recorded);
  if (!equal) return bundle_error("file-missing", equal.error().message);
  if (!*equal) {
    return bundle_error("file-hash", record.path + " differs from what the build wrote", "copy the bundle again");
  }
  return Unit{};
}

// Hashes the weight file, the one that takes long, on a thread of its own.
std::future<Status> check_weights(const Bundle& bundle, bool recorded) {
  for (const auto& record : bundle.manifest.files) {
    if (record.path != bundle.manifest.weights) continue;
    return std::async(std::launch::async,
                      [root = bundle.root, record, recorded] { return check_hash(root, record, recorded); });
  }
  return {};
}

// Hashes all files but the weights on all cores.
Status check_hashes(const Path& root, const Manifest& manifest) {
  std::vector<FileRecord> files;
  std::copy_if(manifest.files.begin(), manifest.files.end(), std::back_inserter(files),
               [&](const FileRecord& record) { return record.path != manifest.weights; });
  std::vector<Status> found(files.size(), Unit{});
  std::atomic<std::size_t> next{0};
  const auto work = [&] {
    for (auto index = next++; index < files.size(); index = next++)
      found[index] = check_hash(root, files[index], false);
  };
  {
    std::vector<std::jthread> helpers;
    const std::size_t most = std::min<std::size_t>(std::thread::hardware_concurrency(), files.size());
    for (std::size_t i = 1; i < most; ++i) helpers.emplace_back(work);
    work();
  }
  for (auto& status : found) CTXRT_CHECK(std::move(status));
  return Unit{};
}

enum class MaskUse { allowed, refused, required };

using Contracts = std::vector<std::pair<std::string, GraphContract>>;

std::vector<TensorSpec> inputs_without_mask(const Manifest& manifest) {
  std::vector<TensorSpec> inputs;
  for (const auto& spec : manifest.inputs) {
    if (spec.role != Role::mask) inputs.push_back(spec);
  }
  return inputs;
}

GraphContract bucket_contract(const Manifest& manifest, MaskUse use) {
  GraphContract contract;
  if (const auto& decoder = manifest.decoder) {
    return {decoder->inputs(), decoder->required(), decoder->outputs(), {}};
  }
  contract.inputs = inputs_without_mask(manifest);
  const auto* mask = manifest.find_role(Role::mask);
  if (mask != nullptr && use != MaskUse::refused) contract.inputs.push_back(*mask);
  if (mask != nullptr && use == MaskUse::required) contract.required = {mask->name};
  contract.outputs.assign(manifest.outputs.begin(), manifest.outputs.end());
  return contract;
}

// The graphs of the fusion: segment, fuse and, where an output has a length, finish.
void add_fusion(const Manifest& manifest, Contracts& contracts) {
  if (!manifest.fusion) return;
  const auto& fusion = *manifest.fusion;
  const auto add = [&](FusionGraph graph, std::vector<TensorSpec> inputs) {
    contracts.emplace_back(fusion.path(graph), GraphContract{std::move(inputs), {}, manifest.outputs_of(graph), {}});
  };
  if (fusion.finish) add(FusionGraph::finish, {fusion.state("hidden"), fusion.state("context")});
  add(FusionGraph::segment, inputs_without_mask(manifest));
  add(FusionGraph::fuse, {fusion.state("summaries")});
}

// What the manifest says of the weights of a graph: only the file beside it is in reach of its external data.
GraphContract with_weights(const Manifest& manifest, const std::string& graph, GraphContract contract) {
  if (!manifest.weights || Path(*manifest.weights).parent_path() != Path(graph).parent_path()) return contract;
  contract.weights = Path(*manifest.weights).filename().string();
  for (const auto& record : manifest.files) {
    if (record.path == *manifest.weights) contract.weights_bytes = record.bytes;
  }
  return contract;
}

// Scans each graph once, and holds the weight ranges of all of them against each other.
Status check_graphs(Bundle& bundle) {
  std::set<std::pair<std::string, MaskUse>> forms;
  for (const auto& bucket : bundle.manifest.buckets) {
    forms.emplace(bucket.graph, bucket.unmasked_graph ? MaskUse::required : MaskUse::allowed);
    if (bucket.unmasked_graph) forms.emplace(*bucket.unmasked_graph, MaskUse::refused);
  }
  Contracts contracts;
  for (const auto& [graph, use] : forms) contracts.emplace_back(graph, bucket_contract(bundle.manifest, use));
  add_fusion(bundle.manifest, contracts);
  std::vector<StoredTensor> all;
  for (const auto& [graph, contract] : contracts) {
    const auto data = read_file(bundle.path(graph), kMaxGraphBytes + 1);
    if (!data) return bundle_error("file-missing", data.error().message);
    CTXRT_ASSIGN(auto stored, scan_graph(graph, *data, with_weights(bundle.manifest, graph, contract)));
    all.insert(all.end(), stored.begin(), stored.end());
    bundle.stored[graph] = std::move(stored);
  }
  return check_ranges(std::move(all));
}

}  // namespace

Result<Bundle> open_bundle(const Path& path, Check check) {
  const auto not_a_bundle = [&] {
    return bundle_error("not-a-bundle",
                        text("'", path.string(), "' is not a bundle: it has no manifest.json that can be read"),
                        "name the folder that `ctx-export build` wrote");
  };
  std::error_code failure;
  Bundle bundle;
  bundle.root = std::filesystem::canonical(path, failure);
  const Path manifest = bundle.root / kManifestName;
  if (failure || !std::filesystem::exists(std::filesystem::symlink_status(manifest, failure))) return not_a_bundle();
  CTXRT_CHECK(check_plain(manifest, std::string(kManifestName)));
  const auto data = read_file(manifest, kMaxManifestBytes + 1);
  if (!data) return not_a_bundle();
  CTXRT_ASSIGN(bundle.manifest, parse_manifest({reinterpret_cast<const char*>(data->data()), data->size()}));
  bundle.manifest_sha256 = sha256(*data);
  CTXRT_CHECK(check_listed_paths(bundle.manifest));
  CTXRT_CHECK(check_buckets(bundle.manifest));
  CTXRT_CHECK(check_references(bundle.manifest));
  CTXRT_CHECK(check_tree(bundle.root, bundle.manifest));
  std::future<Status> weights;
  if (check != Check::sizes) {
    weights = check_weights(bundle, check == Check::changed);
    CTXRT_CHECK(check_hashes(bundle.root, bundle.manifest));
  }
  CTXRT_CHECK(check_graphs(bundle));
  for (const auto& bucket : bundle.manifest.buckets) {
    if (bucket.golden) CTXRT_CHECK(read_golden(bundle.path(*bucket.golden), bundle.manifest));
  }
  if (const auto& fusion = bundle.manifest.fusion; fusion && fusion->golden) {
    CTXRT_CHECK(read_golden(bundle.path(*fusion->golden), bundle.manifest, bundle.manifest.max_length() + 1));
  }
  if (weights.valid()) CTXRT_CHECK(weights.get());
  return bundle;
}

}  // namespace ctxrt::core
