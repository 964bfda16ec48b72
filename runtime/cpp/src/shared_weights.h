// One copy of a bundle's weights for all sessions of a runtime: the mapped weight file, and one container of the
// layouts that ONNX Runtime repacks them to.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "bundle.h"
#include "ort_library.h"

namespace ctxrt::core {

class SharedWeights {
 public:
  static Result<std::shared_ptr<SharedWeights>> open(const OrtLibrary& library, const Bundle& bundle);

  // Makes a session of `graph` take its initializers from here; the values must outlive the session.
  Result<std::vector<OrtOwned<OrtValue>>> attach(const std::string& graph, OrtSessionOptions* options) const;
  OrtPrepackedWeightsContainer* container() const { return container_.get(); }
  // ONNX Runtime changes the container while a session opens.
  std::mutex& opening() { return opening_; }

 private:
  SharedWeights(const OrtLibrary& library, const Bundle& bundle) : library_(library), bundle_(bundle) {}

  const OrtLibrary& library_;
  const Bundle& bundle_;
  std::shared_ptr<const MappedFile> file_;
  OrtOwned<OrtMemoryInfo> memory_;
  OrtOwned<OrtPrepackedWeightsContainer> container_;
  std::mutex opening_;
};

}  // namespace ctxrt::core
