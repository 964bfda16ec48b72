#include "shared_weights.h"

namespace ctxrt::core {

Result<std::shared_ptr<SharedWeights>> SharedWeights::open(const OrtLibrary& library, const Bundle& bundle) {
  const OrtApi& api = library.api();
  std::shared_ptr<SharedWeights> shared(new SharedWeights(library, bundle));
  const auto mapped = MappedFile::open(bundle.path(*bundle.manifest.weights));
  if (!mapped) return backend_error(mapped.error().message);
  shared->file_ = *mapped;
  OrtMemoryInfo* memory = nullptr;
  CTXRT_CHECK(
      library.check(api.CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &memory), "memory information"));
  shared->memory_ = {memory, api.ReleaseMemoryInfo};
  OrtPrepackedWeightsContainer* container = nullptr;
  CTXRT_CHECK(library.check(api.CreatePrepackedWeightsContainer(&container), "prepacked weights"));
  shared->container_ = {container, api.ReleasePrepackedWeightsContainer};
  return shared;
}

Result<std::vector<OrtOwned<OrtValue>>> SharedWeights::attach(const std::string& graph,
                                                              OrtSessionOptions* options) const {
  const OrtApi& api = library_.api();
  std::vector<OrtOwned<OrtValue>> values;
  for (const auto& tensor : bundle_.stored.at(graph)) {
    if (!tensor.initializer) continue;
    OrtValue* value = nullptr;
    // ONNX Runtime reads through the pointer only.
    auto* bytes = const_cast<std::byte*>(file_->bytes().data() + tensor.offset);
    CTXRT_CHECK(library_.check(api.CreateTensorWithDataAsOrtValue(
                                   memory_.get(), bytes, tensor.length, tensor.shape.data(), tensor.shape.size(),
                                   static_cast<ONNXTensorElementDataType>(tensor.data_type), &value),
                               "a shared weight"));
    values.emplace_back(value, api.ReleaseValue);
    CTXRT_CHECK(library_.check(api.AddInitializer(options, tensor.name.c_str(), value), "a shared weight"));
  }
  return values;
}

}  // namespace ctxrt::core
