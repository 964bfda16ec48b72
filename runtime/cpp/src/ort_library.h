// ONNX Runtime, opened while the program runs: its symbol is versioned by release, so nothing links to it.
#pragma once

#include <onnxruntime_c_api.h>

#include <memory>
#include <string>
#include <vector>

#include "result.h"

namespace ctxrt::core {

// Gives an object of ONNX Runtime back through the function of its API that releases it.
template <class T>
class OrtOwned {
 public:
  using Release = void(ORT_API_CALL*)(T*);
  OrtOwned() = default;
  OrtOwned(T* object, Release release)
      : owned_(object, [release](T* released) {
          if (released != nullptr) release(released);
        }) {}

  T* get() const { return owned_.get(); }

 private:
  std::shared_ptr<T> owned_;
};

// The library and the environment of this process; it is never closed, since its threads may outlive every session.
class OrtLibrary {
 public:
  // The one that this process uses, found on the first call: `missing_part` where there is none. In this order: the
  // file that CTXRT_ONNXRUNTIME names; the file given to CMake; the loader's libonnxruntime.so; the wheel beside the
  // Python program that CTXRT_PYTHON names.
  static Result<const OrtLibrary*> get();

  const OrtApi& api() const { return *api_; }
  const OrtEnv* env() const { return env_; }
  const std::string& version() const { return version_; }
  const std::string& file() const { return file_; }
  // "CPUExecutionProvider", …
  const std::vector<std::string>& providers() const { return providers_; }

  // What a status says, on one line, after `what`; `memory_budget` where memory is short.
  Status check(OrtStatus* status, const std::string& what) const;

 private:
  static Result<OrtLibrary> open(const std::string& file);

  const OrtApi* api_ = nullptr;
  OrtEnv* env_ = nullptr;
  std::string version_, file_;
  std::vector<std::string> providers_;
};

}  // namespace ctxrt::core
