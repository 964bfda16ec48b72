// Opens the session that serves a bucket on a backend.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "bundle.h"
#include "session.h"

namespace ctxrt::core {

class OrtLibrary;
class SharedWeights;

// Opens the sessions of one bundle; may be called from several threads.
class Opener {
 public:
  Opener(const Bundle& bundle, ShareWeights share_weights) : bundle_(bundle), share_weights_(share_weights) {}

  // Buckets with the same key share one session: on ONNX Runtime the network, its form and the threads; on TensorRT the
  // engine file.
  std::string key(const Bucket& bucket, GraphForm form, Backend backend) const;

  // The graphs of a fusion run on ONNX Runtime alone, and not on TensorRT-RTX in it.
  // `backend` or `missing_part` where the backend is not there or refuses the graph or the engine, `memory_budget`
  // where there is not enough memory. `on_fallback` is told why weights are not shared where they should be.
  Result<std::unique_ptr<Session>> open(const Bucket& bucket, GraphForm form, Backend backend,
                                        const std::function<void(const std::string&)>& on_fallback);

 private:
  Result<std::unique_ptr<Session>> open_graph(const Bucket& bucket, GraphForm form, Backend backend,
                                              const std::function<void(const std::string&)>& on_fallback);
  Result<std::string> graph_of_network(const Bucket& bucket, GraphForm form) const;
  Result<std::shared_ptr<SharedWeights>> shared_weights(const OrtLibrary& library);

  const Bundle& bundle_;
  ShareWeights share_weights_;
  std::mutex mutex_;
  std::shared_ptr<SharedWeights> shared_;
};

}  // namespace ctxrt::core
