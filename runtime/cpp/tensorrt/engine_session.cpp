// A TensorRT engine as a session: compiled once for each major version of the library, and never run without a GPU.
#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <algorithm>
#include <map>
#include <mutex>

#include "cuda.h"
#include "tensorrt_plugin.h"

namespace ctxrt::tensorrt {
namespace {

using core::backend_error;
using core::Result;
using core::Shape;
using core::Status;
using core::Tensor;
using core::Tensors;
using core::text;
using core::Unit;
using nvinfer1::Dims;
using nvinfer1::OptProfileSelector;

// What the library said went wrong last.
class ErrorLog final : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override {
    if (severity > Severity::kERROR) return;
    const std::lock_guard lock(mutex_);
    last_ = message;
  }
  std::string last() const {
    const std::lock_guard lock(mutex_);
    return last_.empty() ? "no reason given" : last_;
  }

 private:
  mutable std::mutex mutex_;
  std::string last_;
};

struct Library {
  int version = 0;
  void* (*create_runtime)(void* logger, std::int32_t version) = nullptr;
};

Result<Library> load_library() {
  const std::string file = text("libnvinfer.so.", NV_TENSORRT_MAJOR);
  void* handle = ::dlopen(file.c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (handle == nullptr) return backend_error(file + " is not installed");
  const auto version = reinterpret_cast<std::int32_t (*)()>(::dlsym(handle, "getInferLibVersion"));
  const auto create =
      reinterpret_cast<decltype(Library::create_runtime)>(::dlsym(handle, "createInferRuntime_INTERNAL"));
  if (version == nullptr || create == nullptr) return backend_error(file + " is not TensorRT");
  return Library{version(), create};
}

// Why an engine can't run with this library on this architecture; empty if it can. 101401 is version 10.14.1.
std::string misfit(const core::EngineRecord& engine, int version, int architecture) {
  const std::string present = text(version / 10000, ".", version / 100 % 100, ".", version % 100);
  const auto has = [&](const std::string& target) {
    return std::find(engine.targets.begin(), engine.targets.end(), target) != engine.targets.end();
  };
  const bool same_release = engine.library_version == present || engine.library_version.starts_with(present + ".");
  const bool same_major = engine.library_version.starts_with(text(version / 10000, "."));
  if (!same_release && !(has("version-compatible") && same_major)) {
    return text("the engine is for TensorRT ", engine.library_version, ", this is ", present);
  }
  if (!has(text("sm", architecture)) && !(has("ampere-plus") && architecture >= 80)) {
    return text("the engine ", engine.file, " is not for this device, sm", architecture);
  }
  return engine.stripped ? text("the engine ", engine.file, " has no weights: open it once from Python") : "";
}

std::optional<core::DType> dtype_of(nvinfer1::DataType type) {
  switch (type) {
    case nvinfer1::DataType::kFLOAT:
      return core::DType::float32;
    case nvinfer1::DataType::kHALF:
      return core::DType::float16;
    case nvinfer1::DataType::kINT64:
      return core::DType::int64;
    case nvinfer1::DataType::kINT32:
      return core::DType::int32;
    case nvinfer1::DataType::kBOOL:
      return core::DType::boolean;
    default:
      return std::nullopt;
  }
}

Dims to_dims(const Shape& shape) {
  Dims dims{};
  dims.nbDims = static_cast<std::int32_t>(shape.size());
  std::copy(shape.begin(), shape.end(), dims.d);
  return dims;
}

Shape to_shape(const Dims& dims) { return {dims.d, dims.d + std::max(dims.nbDims, 0)}; }

bool within(const Shape& shape, const Dims& low, const Dims& high) {
  bool fits = low.nbDims == std::ssize(shape) && high.nbDims == std::ssize(shape);
  for (std::size_t i = 0; fits && i < shape.size(); ++i) fits = low.d[i] <= shape[i] && shape[i] <= high.d[i];
  return fits;
}

// Contexts share the engine's weights and the buffers, so one batch runs at a time.
class EngineSession final : public core::Session {
 public:
  static Result<std::unique_ptr<Session>> open(const core::Bundle& bundle, const core::EngineRecord& engine) {
    CTXRT_ASSIGN(const auto cuda, Cuda::load());
    CTXRT_ASSIGN(const auto library, load_library());
    CTXRT_ASSIGN(const int architecture, cuda.architecture());
    if (const auto reason = misfit(engine, library.version, architecture); !reason.empty())
      return backend_error(reason);
    std::unique_ptr<EngineSession> session(new EngineSession(cuda, engine));
    CTXRT_CHECK(session->start(bundle, library));
    return std::unique_ptr<Session>(std::move(session));
  }

  core::Backend backend() const override { return record_.backend; }
  const std::vector<std::string>& inputs() const override { return inputs_; }
  std::int64_t resident_bytes() const override { return engine_bytes_; }

  Result<Tensors> run(const Tensors& feeds, const core::Bucket& bucket, core::CancelToken* cancel) override {
    const std::lock_guard lock(mutex_);
    if (cancel != nullptr && cancel->cancelled()) return core::cancelled_error();
    CTXRT_ASSIGN(const int profile, profile_for(feeds, bucket));
    CTXRT_ASSIGN(auto* context, context_of(profile));
    for (const auto& name : inputs_) CTXRT_CHECK(bind_input(*context, name, feeds.find(name)->second));
    Tensors outputs;
    std::map<std::string, std::byte*> targets;
    for (const auto& name : outputs_) CTXRT_CHECK(bind_output(*context, name, outputs, targets));
    if (!context->enqueueV3(memory_->stream())) return failed(bucket.name + " failed");
    for (const auto& [name, target] : targets) {
      const auto bytes = outputs.at(name).bytes();
      CTXRT_CHECK(cuda_.check(
          cuda_.copy(target, context->getTensorAddress(name.c_str()), bytes, cudaMemcpyDeviceToHost, memory_->stream()),
          name));
    }
    CTXRT_CHECK(cuda_.check(cuda_.synchronize(memory_->stream()), bucket.name + " failed"));
    return outputs;
  }

 private:
  EngineSession(const Cuda& cuda, const core::EngineRecord& record) : cuda_(cuda), record_(record) {}

  core::Error failed(const std::string& what) const { return backend_error(text(what, ": ", log_.last())); }

  Status start(const core::Bundle& bundle, const Library& library) {
    CTXRT_ASSIGN(memory_, DeviceMemory::open(cuda_));
    const auto file = core::MappedFile::open(bundle.path(record_.file));
    if (!file) return backend_error(file.error().message);
    runtime_.reset(static_cast<nvinfer1::IRuntime*>(library.create_runtime(&log_, NV_TENSORRT_VERSION)));
    if (!runtime_) return failed("TensorRT does not start");
    const auto& targets = record_.targets;
    const bool has_code = std::find(targets.begin(), targets.end(), "version-compatible") != targets.end();
    runtime_->setEngineHostCodeAllowed(has_code);
    engine_.reset(runtime_->deserializeCudaEngine((*file)->bytes().data(), (*file)->bytes().size()));
    if (!engine_) return failed("can't load " + record_.file);
    engine_bytes_ = std::ssize((*file)->bytes());
    for (std::int32_t i = 0; i < engine_->getNbIOTensors(); ++i) {
      const std::string name = engine_->getIOTensorName(i);
      const bool is_input = engine_->getTensorIOMode(name.c_str()) == nvinfer1::TensorIOMode::kINPUT;
      (is_input ? inputs_ : outputs_).push_back(name);
    }
    return Unit{};
  }

  // The optimization profile of the bucket, or the first other one, that takes every input.
  Result<int> profile_for(const Tensors& feeds, const core::Bucket& bucket) const {
    const auto own = record_.optimization_profiles.find(bucket.name);
    if (own == record_.optimization_profiles.end())
      return backend_error(text(record_.file, " does not serve ", bucket.name));
    std::vector<std::int64_t> candidates{own->second};
    for (const auto& [name, index] : record_.optimization_profiles) candidates.push_back(index);
    for (const auto candidate : candidates) {
      const int index = static_cast<int>(candidate);
      const auto takes = [&](const std::string& name) {
        const auto bound = [&](OptProfileSelector which) {
          return engine_->getProfileShape(name.c_str(), index, which);
        };
        return within(feeds.find(name)->second.shape, bound(OptProfileSelector::kMIN), bound(OptProfileSelector::kMAX));
      };
      if (std::all_of(inputs_.begin(), inputs_.end(), takes)) return index;
    }
    return backend_error(text(record_.file, " has no optimization profile that takes these inputs of ", bucket.name));
  }

  Result<nvinfer1::IExecutionContext*> context_of(int profile) {
    auto& context = contexts_[profile];
    if (!context) {
      context.reset(engine_->createExecutionContext());
      if (!context || !context->setOptimizationProfileAsync(profile, memory_->stream())) {
        context.reset();
        return failed(text("optimization profile ", profile, " can't be chosen"));
      }
    }
    return context.get();
  }

  Status bind_input(nvinfer1::IExecutionContext& context, const std::string& name, const Tensor& tensor) {
    CTXRT_ASSIGN(void* buffer, memory_->reserve(name, tensor.bytes()));
    if (!context.setInputShape(name.c_str(), to_dims(tensor.shape)) ||
        !context.setTensorAddress(name.c_str(), buffer)) {
      return failed(text("input '", name, "' ", core::describe(tensor.shape)));
    }
    return cuda_.check(cuda_.copy(buffer, tensor.data.get(), tensor.bytes(), cudaMemcpyHostToDevice, memory_->stream()),
                       name);
  }

  Status bind_output(nvinfer1::IExecutionContext& context, const std::string& name, Tensors& outputs,
                     std::map<std::string, std::byte*>& targets) {
    const auto dtype = dtype_of(engine_->getTensorDataType(name.c_str()));
    const Shape shape = to_shape(context.getTensorShape(name.c_str()));
    if (!dtype || std::any_of(shape.begin(), shape.end(), [](auto size) { return size < 0; })) {
      return failed(text("output '", name, "' has no dtype or shape of a bundle"));
    }
    outputs[name] = core::make_tensor(*dtype, shape, [&](std::byte* memory) { targets[name] = memory; });
    CTXRT_ASSIGN(void* buffer, memory_->reserve(name, outputs[name].bytes()));
    if (!context.setTensorAddress(name.c_str(), buffer)) return failed(name);
    return Unit{};
  }

  const Cuda cuda_;
  const core::EngineRecord record_;
  std::mutex mutex_;
  ErrorLog log_;
  std::unique_ptr<DeviceMemory> memory_;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::map<int, std::unique_ptr<nvinfer1::IExecutionContext>>
      contexts_;  // by optimization profile; go before the engine
  std::vector<std::string> inputs_, outputs_;
  std::int64_t engine_bytes_ = 0;
};

}  // namespace
}  // namespace ctxrt::tensorrt

extern "C" __attribute__((visibility("default"))) ctxrt::core::Result<std::unique_ptr<ctxrt::core::Session>>
ctxrt_open_engine(const ctxrt::core::Bundle& bundle, const ctxrt::core::EngineRecord& engine) {
  return ctxrt::tensorrt::EngineSession::open(bundle, engine);
}
