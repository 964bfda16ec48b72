#include "ort_session.h"

#include <algorithm>
#include <array>

namespace ctxrt::core {
namespace {

std::string provider_of(Backend backend) {
  switch (backend) {
    case Backend::onnxruntime_cuda:
      return "CUDAExecutionProvider";
    case Backend::onnxruntime_tensorrt:
      return "TensorrtExecutionProvider";
    case Backend::onnxruntime_tensorrt_rtx:
      return "NvTensorRTRTXExecutionProvider";
    default:
      return "CPUExecutionProvider";
  }
}

ONNXTensorElementDataType element_type(DType dtype) {
  switch (dtype) {
    case DType::float32:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    case DType::float16:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
    case DType::int64:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
    case DType::int32:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
    case DType::boolean:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL;
    case DType::float64:
      break;
  }
  return ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE;
}

std::optional<DType> dtype_of(ONNXTensorElementDataType type) {
  for (const auto dtype :
       {DType::float32, DType::float16, DType::int64, DType::int32, DType::boolean, DType::float64}) {
    if (element_type(dtype) == type) return dtype;
  }
  return std::nullopt;
}

// The names of a session's inputs or outputs, by the functions of the API that count and tell them.
template <class Count, class Name>
Result<std::vector<std::string>> names_of(const OrtLibrary& library, const OrtSession* session, Count count,
                                          Name name) {
  const OrtApi& api = library.api();
  OrtAllocator* allocator = nullptr;
  std::size_t size = 0;
  CTXRT_CHECK(library.check(api.GetAllocatorWithDefaultOptions(&allocator), "names"));
  CTXRT_CHECK(library.check(count(session, &size), "names"));
  std::vector<std::string> names;
  for (std::size_t i = 0; i < size; ++i) {
    char* one = nullptr;
    CTXRT_CHECK(library.check(name(session, i, allocator, &one), "names"));
    names.emplace_back(one);
    allocator->Free(allocator, one);
  }
  return names;
}

// Calls `run` with run options that `cancel` ends it by, or with none; tells a cancelled run from a failed one.
template <class Run>
Status run_cancellable(const OrtLibrary& library, CancelToken* cancel, const std::string& bucket, Run run) {
  const OrtApi& api = library.api();
  OrtRunOptions* options = nullptr;
  if (cancel != nullptr) CTXRT_CHECK(library.check(api.CreateRunOptions(&options), "run options"));
  const OrtOwned<OrtRunOptions> owned(options, api.ReleaseRunOptions);
  OrtStatus* status = nullptr;
  {
    const CancelToken::Guard guard(cancel, [&api, options] {
      if (OrtStatus* refused = api.RunOptionsSetTerminate(options)) api.ReleaseStatus(refused);
    });
    status = run(options);
  }
  Status ran = library.check(status, text(bucket, " failed"));
  if (!ran && cancel != nullptr && cancel->cancelled()) return cancelled_error();
  return ran;
}

// A session's run with what it reads and writes.
class OrtBoundRun final : public BoundRun {
 public:
  OrtBoundRun(const OrtLibrary& library, OrtSession* session, OrtOwned<OrtIoBinding> binding, std::string bucket)
      : library_(library), session_(session), binding_(std::move(binding)), bucket_(std::move(bucket)) {}

  Status run(CancelToken* cancel) override {
    return run_cancellable(library_, cancel, bucket_, [this](const OrtRunOptions* options) {
      return library_.api().RunWithBinding(session_, options, binding_.get());
    });
  }

 private:
  const OrtLibrary& library_;
  OrtSession* session_;
  OrtOwned<OrtIoBinding> binding_;  // keeps the values
  std::string bucket_;
};

std::vector<const char*> pointers_to(const std::vector<std::string>& names) {
  std::vector<const char*> out;
  out.reserve(names.size());
  for (const auto& name : names) out.push_back(name.c_str());
  return out;
}

}  // namespace

Result<std::unique_ptr<Session>> OrtGraphSession::open(const OrtLibrary& library, OrtSessionPlan plan) {
  const auto provider = provider_of(plan.backend);
  const auto& available = library.providers();
  if (std::find(available.begin(), available.end(), provider) == available.end()) {
    return backend_error(text("this build of ONNX Runtime (", library.version(), ") has no ", provider),
                         "use a build of ONNX Runtime that has it");
  }
  std::unique_ptr<OrtGraphSession> session(new OrtGraphSession(library, std::move(plan)));
  CTXRT_CHECK(session->start());
  return std::unique_ptr<Session>(std::move(session));
}

Status OrtGraphSession::start() {
  const OrtApi& api = library_.api();
  CTXRT_ASSIGN(const auto options, make_options());
  OrtMemoryInfo* memory = nullptr;
  CTXRT_CHECK(
      library_.check(api.CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &memory), "memory information"));
  memory_ = {memory, api.ReleaseMemoryInfo};
  OrtSession* opened = nullptr;
  const std::string what = text("can't open ", plan_.graph.filename().string());
  if (plan_.shared) {
    const std::lock_guard lock(plan_.shared->opening());
    CTXRT_CHECK(
        library_.check(api.CreateSessionWithPrepackedWeightsContainer(
                           library_.env(), plan_.graph.c_str(), options.get(), plan_.shared->container(), &opened),
                       what));
  } else {
    CTXRT_CHECK(library_.check(api.CreateSession(library_.env(), plan_.graph.c_str(), options.get(), &opened), what));
  }
  session_ = {opened, api.ReleaseSession};
  CTXRT_ASSIGN(inputs_, names_of(library_, opened, api.SessionGetInputCount, api.SessionGetInputName));
  CTXRT_ASSIGN(outputs_, names_of(library_, opened, api.SessionGetOutputCount, api.SessionGetOutputName));
  input_names_ = pointers_to(inputs_);
  output_names_ = pointers_to(outputs_);
  return Unit{};
}

// Threads do not spin while they wait: it gains a few percent on an idle machine and doubles the time on a busy one.
// Graphs come out of the build in the form that runs fastest; more than basic optimisation makes them slower (it fuses
// SkipLayerNormalization).
Result<OrtOwned<OrtSessionOptions>> OrtGraphSession::make_options() {
  const OrtApi& api = library_.api();
  OrtSessionOptions* made = nullptr;
  CTXRT_CHECK(library_.check(api.CreateSessionOptions(&made), "session options"));
  OrtOwned<OrtSessionOptions> options(made, api.ReleaseSessionOptions);
  CTXRT_CHECK(library_.check(api.SetIntraOpNumThreads(made, static_cast<int>(plan_.threads)), "threads"));
  CTXRT_CHECK(library_.check(api.SetSessionGraphOptimizationLevel(made, ORT_ENABLE_BASIC), "optimisation"));
  CTXRT_CHECK(library_.check(api.SetSessionLogSeverityLevel(made, ORT_LOGGING_LEVEL_FATAL), "logging"));
  CTXRT_CHECK(library_.check(api.AddSessionConfigEntry(made, "session.intra_op.allow_spinning", "0"), "spinning"));
  CTXRT_CHECK(append_provider(made));
  if (plan_.shared) {
    CTXRT_ASSIGN(weights_, plan_.shared->attach(plan_.name, made));
  }
  return options;
}

Status OrtGraphSession::append_provider(OrtSessionOptions* options) const {
  const OrtApi& api = library_.api();
  const std::string what = "can't start " + provider_of(plan_.backend);
  if (plan_.backend == Backend::onnxruntime_cuda) {
    OrtCUDAProviderOptionsV2* made = nullptr;
    CTXRT_CHECK(library_.check(api.CreateCUDAProviderOptions(&made), what));
    const OrtOwned<OrtCUDAProviderOptionsV2> cuda(made, api.ReleaseCUDAProviderOptions);
    return library_.check(api.SessionOptionsAppendExecutionProvider_CUDA_V2(options, made), what);
  }
  if (plan_.backend == Backend::onnxruntime_tensorrt) {
    OrtTensorRTProviderOptionsV2* made = nullptr;
    CTXRT_CHECK(library_.check(api.CreateTensorRTProviderOptions(&made), what));
    const OrtOwned<OrtTensorRTProviderOptionsV2> tensorrt(made, api.ReleaseTensorRTProviderOptions);
    return library_.check(api.SessionOptionsAppendExecutionProvider_TensorRT_V2(options, made), what);
  }
  if (plan_.backend == Backend::onnxruntime_tensorrt_rtx) {
    return library_.check(
        api.SessionOptionsAppendExecutionProvider(options, "NvTensorRTRTXExecutionProvider", nullptr, nullptr, 0),
        what);
  }
  return Unit{};
}

Result<OrtOwned<OrtValue>> OrtGraphSession::wrap(const BoundArray& array) const {
  const OrtApi& api = library_.api();
  OrtValue* value = nullptr;
  const std::size_t bytes = Tensor{array.dtype, array.shape, nullptr}.bytes();
  CTXRT_CHECK(library_.check(api.CreateTensorWithDataAsOrtValue(memory_.get(), array.data, bytes, array.shape.data(),
                                                                array.shape.size(), element_type(array.dtype), &value),
                             array.name));
  return OrtOwned<OrtValue>(value, api.ReleaseValue);
}

Result<std::vector<OrtOwned<OrtValue>>> OrtGraphSession::wrap(const Tensors& feeds) const {
  std::vector<OrtOwned<OrtValue>> values;
  for (const auto& name : inputs_) {
    const auto& tensor = feeds.find(name)->second;
    auto* bytes = const_cast<std::byte*>(tensor.data.get());  // ONNX Runtime reads through the pointer only
    CTXRT_ASSIGN(auto value, wrap({name, tensor.dtype, tensor.shape, bytes}));
    values.push_back(std::move(value));
  }
  return values;
}

Result<std::unique_ptr<BoundRun>> OrtGraphSession::bind(std::span<const BoundArray> inputs,
                                                        std::span<const BoundArray> outputs, const Bucket& bucket) {
  const OrtApi& api = library_.api();
  OrtIoBinding* made = nullptr;
  CTXRT_CHECK(library_.check(api.CreateIoBinding(session_.get(), &made), "a binding"));
  OrtOwned<OrtIoBinding> binding(made, api.ReleaseIoBinding);
  for (const auto& input : inputs) {
    CTXRT_ASSIGN(const auto value, wrap(input));
    CTXRT_CHECK(library_.check(api.BindInput(made, input.name.c_str(), value.get()), input.name));
  }
  for (const auto& output : outputs) {
    CTXRT_ASSIGN(const auto value, wrap(output));
    CTXRT_CHECK(library_.check(api.BindOutput(made, output.name.c_str(), value.get()), output.name));
  }
  return std::unique_ptr<BoundRun>(
      std::make_unique<OrtBoundRun>(library_, session_.get(), std::move(binding), bucket.name));
}

// The tensor of an output, which keeps ONNX Runtime's memory alive.
Result<Tensor> OrtGraphSession::take(const OrtOwned<OrtValue>& output) const {
  const OrtApi& api = library_.api();
  OrtTensorTypeAndShapeInfo* info = nullptr;
  CTXRT_CHECK(library_.check(api.GetTensorTypeAndShape(output.get(), &info), "an output"));
  const OrtOwned<OrtTensorTypeAndShapeInfo> owned_info(info, api.ReleaseTensorTypeAndShapeInfo);
  ONNXTensorElementDataType type{};
  std::size_t rank = 0;
  void* data = nullptr;
  CTXRT_CHECK(library_.check(api.GetTensorElementType(info, &type), "an output"));
  CTXRT_CHECK(library_.check(api.GetDimensionsCount(info, &rank), "an output"));
  Tensor tensor{DType::float32, Shape(rank), nullptr};
  CTXRT_CHECK(library_.check(api.GetDimensions(info, tensor.shape.data(), rank), "an output"));
  CTXRT_CHECK(library_.check(api.GetTensorMutableData(output.get(), &data), "an output"));
  const auto dtype = dtype_of(type);
  if (!dtype) return backend_error("an output has a dtype that no manifest names");
  tensor.dtype = *dtype;
  const auto keeper = std::make_shared<OrtOwned<OrtValue>>(output);
  tensor.data = {keeper, static_cast<const std::byte*>(data)};
  return tensor;
}

Result<Tensors> OrtGraphSession::run(const Tensors& feeds, const Bucket& bucket, CancelToken* cancel) {
  const OrtApi& api = library_.api();
  CTXRT_ASSIGN(const auto inputs, wrap(feeds));
  std::vector<const OrtValue*> values;
  values.reserve(inputs.size());
  for (const auto& input : inputs) values.push_back(input.get());
  std::vector<OrtValue*> outputs(outputs_.size(), nullptr);
  CTXRT_CHECK(run_cancellable(library_, cancel, bucket.name, [&](const OrtRunOptions* options) {
    return api.Run(session_.get(), options, input_names_.data(), values.data(), values.size(), output_names_.data(),
                   outputs.size(), outputs.data());
  }));
  std::vector<OrtOwned<OrtValue>> owned_outputs;
  owned_outputs.reserve(outputs.size());
  for (OrtValue* output : outputs) owned_outputs.emplace_back(output, api.ReleaseValue);
  Tensors result;
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    CTXRT_ASSIGN(auto tensor, take(owned_outputs[i]));
    result.emplace(outputs_[i], std::move(tensor));
  }
  return result;
}

}  // namespace ctxrt::core
