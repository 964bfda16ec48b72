#include "opening.h"

#include "ort_session.h"
#include "tensorrt_loader.h"

namespace ctxrt::core {
namespace {

// Private memory of a session whose weights are shared; measured on MiniLM.
constexpr std::int64_t kSharedBytes = 8 << 20;
// Private memory of a session that repacks its weights, as a share of the weight file; measured on MiniLM.
constexpr double kCopiedShare = 1.5;

bool is_tensorrt(Backend backend) { return backend == Backend::tensorrt || backend == Backend::tensorrt_rtx; }

bool is_of_fusion(GraphForm form) { return std::holds_alternative<FusionGraph>(form); }

std::int64_t weight_bytes(const Manifest& manifest) {
  for (const auto& record : manifest.files) {
    if (record.path == manifest.weights) return record.bytes;
  }
  return 0;
}

}  // namespace

std::string Opener::key(const Bucket& bucket, GraphForm form, Backend backend) const {
  std::string key(name_of(backend));
  if (!is_tensorrt(backend) || is_of_fusion(form))
    return text(key, "|", bucket.network, "|", bucket.threads, "|", name_of(form));
  for (const auto& engine : bundle_.manifest.engines) {
    if (engine.backend == backend && engine.optimization_profiles.contains(bucket.name)) key += "|" + engine.file;
  }
  return key;
}

Result<std::unique_ptr<Session>> Opener::open(const Bucket& bucket, GraphForm form, Backend backend,
                                              const std::function<void(const std::string&)>& on_fallback) {
  if (is_of_fusion(form) && (is_tensorrt(backend) || backend == Backend::onnxruntime_tensorrt_rtx)) {
    return backend_error(text(name_of(backend), " runs no graphs of a fusion"));
  }
  if (is_tensorrt(backend)) return open_engine(bundle_, bucket, backend);
  return open_graph(bucket, form, backend, on_fallback);
}

Result<std::unique_ptr<Session>> Opener::open_graph(const Bucket& bucket, GraphForm form, Backend backend,
                                                    const std::function<void(const std::string&)>& on_fallback) {
  CTXRT_ASSIGN(const OrtLibrary* library, OrtLibrary::get());
  CTXRT_ASSIGN(const std::string graph, graph_of_network(bucket, form));
  OrtSessionPlan plan{bundle_.path(graph), graph, backend, bucket.threads, kSharedBytes, nullptr};
  if (share_weights_ == ShareWeights::mmap && backend == Backend::onnxruntime_cpu && bundle_.manifest.weights) {
    auto shared = shared_weights(*library);
    if (shared) {
      plan.shared = *shared;
      if (auto session = OrtGraphSession::open(*library, plan)) return session;
      plan.shared = nullptr;
    }
    on_fallback("weights are not shared: " + (shared ? "ONNX Runtime refuses them" : shared.error().message));
  }
  plan.resident_bytes += static_cast<std::int64_t>(static_cast<double>(weight_bytes(bundle_.manifest)) * kCopiedShare);
  return OrtGraphSession::open(*library, std::move(plan));
}

// The graph of the largest bucket with the same network: it holds the tables of all lengths.
Result<std::string> Opener::graph_of_network(const Bucket& bucket, GraphForm form) const {
  if (const auto* graph = std::get_if<FusionGraph>(&form)) return bundle_.manifest.fusion->path(*graph);
  const Bucket* largest = &bucket;
  for (const auto& other : bundle_.manifest.buckets) {
    if (other.network == bucket.network) largest = &other;
  }
  if (std::get<Form>(form) == Form::masked) return largest->graph;
  if (!largest->unmasked_graph) return backend_error(largest->name + " has no unmasked graph");
  return *largest->unmasked_graph;
}

Result<std::shared_ptr<SharedWeights>> Opener::shared_weights(const OrtLibrary& library) {
  const std::lock_guard lock(mutex_);
  if (!shared_) {
    CTXRT_ASSIGN(shared_, SharedWeights::open(library, bundle_));
  }
  return shared_;
}

}  // namespace ctxrt::core
