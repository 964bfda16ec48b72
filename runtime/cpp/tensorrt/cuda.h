// The few functions of the CUDA runtime that a session needs, from the library that is installed.
#pragma once

#include <cuda_runtime_api.h>

#include <map>
#include <memory>
#include <string>

#include "result.h"

namespace ctxrt::tensorrt {

class Cuda {
 public:
  static core::Result<Cuda> load();

  decltype(&::cudaMalloc) malloc_bytes = nullptr;
  decltype(&::cudaFree) free_bytes = nullptr;
  decltype(&::cudaMemcpyAsync) copy = nullptr;
  decltype(&::cudaStreamCreate) create_stream = nullptr;
  decltype(&::cudaStreamDestroy) destroy_stream = nullptr;
  decltype(&::cudaStreamSynchronize) synchronize = nullptr;
  decltype(&::cudaDeviceGetAttribute) attribute = nullptr;
  decltype(&::cudaGetErrorString) error_string = nullptr;

  core::Status check(cudaError_t status, const std::string& what) const;
  // "89" of the first device.
  core::Result<int> architecture() const;
};

// A stream, and buffers by name that only grow.
class DeviceMemory {
 public:
  static core::Result<std::unique_ptr<DeviceMemory>> open(const Cuda& cuda);
  ~DeviceMemory();
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  cudaStream_t stream() const { return stream_; }
  core::Result<void*> reserve(const std::string& name, std::size_t bytes);

 private:
  struct Buffer {
    void* memory = nullptr;
    std::size_t bytes = 0;
  };
  explicit DeviceMemory(const Cuda& cuda) : cuda_(cuda) {}

  const Cuda cuda_;
  cudaStream_t stream_ = nullptr;
  std::map<std::string, Buffer> buffers_;
};

}  // namespace ctxrt::tensorrt
