// ONNX Runtime: one session for a graph, at the settings that were measured to be the fastest on a CPU.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "ort_library.h"
#include "session.h"
#include "shared_weights.h"

namespace ctxrt::core {

struct OrtSessionPlan {
  Path graph;        // an ONNX file of a verified bundle
  std::string name;  // what the bundle calls it
  Backend backend = Backend::onnxruntime_cpu;
  std::int64_t threads = 0;               // of one run; 0 leaves it to ONNX Runtime
  std::int64_t resident_bytes = 0;        // what it is expected to keep in private memory
  std::shared_ptr<SharedWeights> shared;  // where its weights come from; null: each session copies them
};

class OrtGraphSession final : public Session {
 public:
  // `backend` where ONNX Runtime lacks the execution provider or refuses the graph, `memory_budget` where memory is
  // short.
  static Result<std::unique_ptr<Session>> open(const OrtLibrary& library, OrtSessionPlan plan);

  Backend backend() const override { return plan_.backend; }
  const std::vector<std::string>& inputs() const override { return inputs_; }
  std::int64_t resident_bytes() const override { return plan_.resident_bytes; }
  Result<Tensors> run(const Tensors& feeds, const Bucket& bucket, CancelToken* cancel) override;
  Result<std::unique_ptr<BoundRun>> bind(std::span<const BoundArray> inputs, std::span<const BoundArray> outputs,
                                         const Bucket& bucket) override;

 private:
  OrtGraphSession(const OrtLibrary& library, OrtSessionPlan plan) : library_(library), plan_(std::move(plan)) {}
  Status start();
  Result<OrtOwned<OrtSessionOptions>> make_options();
  Status append_provider(OrtSessionOptions* options) const;
  Result<OrtOwned<OrtValue>> wrap(const BoundArray& array) const;
  Result<std::vector<OrtOwned<OrtValue>>> wrap(const Tensors& feeds) const;
  Result<Tensor> take(const OrtOwned<OrtValue>& output) const;

  const OrtLibrary& library_;
  OrtSessionPlan plan_;
  OrtOwned<OrtMemoryInfo> memory_;
  std::vector<OrtOwned<OrtValue>> weights_;  // outlive the session: members go in reverse order
  OrtOwned<OrtSession> session_;
  std::vector<std::string> inputs_, outputs_;
  std::vector<const char*> input_names_, output_names_;
};

}  // namespace ctxrt::core
