#include "cuda.h"

#include <dlfcn.h>

namespace ctxrt::tensorrt {

using core::backend_error;
using core::Error;
using core::ErrorKind;
using core::Result;
using core::Status;
using core::text;
using core::Unit;

Result<Cuda> Cuda::load() {
  const std::string file = text("libcudart.so.", CUDART_VERSION / 1000);
  void* library = ::dlopen(file.c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (library == nullptr) return backend_error(file + " is not installed");
  Cuda cuda;
  std::string missing;
  const auto find = [&](auto& function, const char* name) {
    function = reinterpret_cast<std::decay_t<decltype(function)>>(::dlsym(library, name));
    if (function == nullptr) missing = name;
  };
  find(cuda.malloc_bytes, "cudaMalloc");
  find(cuda.free_bytes, "cudaFree");
  find(cuda.copy, "cudaMemcpyAsync");
  find(cuda.create_stream, "cudaStreamCreate");
  find(cuda.destroy_stream, "cudaStreamDestroy");
  find(cuda.synchronize, "cudaStreamSynchronize");
  find(cuda.attribute, "cudaDeviceGetAttribute");
  find(cuda.error_string, "cudaGetErrorString");
  if (!missing.empty()) return backend_error(text(file, " has no ", missing));
  return cuda;
}

Status Cuda::check(cudaError_t status, const std::string& what) const {
  if (status == cudaSuccess) return Unit{};
  const std::string message = text(what, ": ", error_string(status));
  if (status == cudaErrorMemoryAllocation)
    return Error{ErrorKind::memory_budget, message, "run shorter inputs or smaller batches", ""};
  return backend_error(message);
}

Result<int> Cuda::architecture() const {
  int major = 0, minor = 0;
  CTXRT_CHECK(check(attribute(&major, cudaDevAttrComputeCapabilityMajor, 0), "no GPU"));
  CTXRT_CHECK(check(attribute(&minor, cudaDevAttrComputeCapabilityMinor, 0), "no GPU"));
  return major * 10 + minor;
}

Result<std::unique_ptr<DeviceMemory>> DeviceMemory::open(const Cuda& cuda) {
  std::unique_ptr<DeviceMemory> memory(new DeviceMemory(cuda));
  CTXRT_CHECK(cuda.check(cuda.create_stream(&memory->stream_), "no stream"));
  return memory;
}

DeviceMemory::~DeviceMemory() {
  for (const auto& [name, buffer] : buffers_) cuda_.free_bytes(buffer.memory);
  if (stream_ != nullptr) cuda_.destroy_stream(stream_);
}

Result<void*> DeviceMemory::reserve(const std::string& name, std::size_t bytes) {
  auto& buffer = buffers_[name];
  if (buffer.bytes < bytes) {
    CTXRT_CHECK(cuda_.check(cuda_.free_bytes(buffer.memory), name));
    buffer = {};
    CTXRT_CHECK(cuda_.check(cuda_.malloc_bytes(&buffer.memory, bytes), text(bytes, " bytes for ", name)));
    buffer.bytes = bytes;
  }
  return buffer.memory;
}

}  // namespace ctxrt::tensorrt
