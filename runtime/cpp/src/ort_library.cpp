#include "ort_library.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "environment.h"
#include "utf8.h"

namespace ctxrt::core {
namespace {

namespace fs = std::filesystem;

// The oldest version of the API that has every function used here.
constexpr std::uint32_t kOldestApi = 17;
constexpr std::size_t kMaxMessage = 500;

// The library in the wheel of the environment that a Python program belongs to; empty if there is none.
std::string in_wheel(const fs::path& python) {
  std::error_code failure;
  for (fs::directory_iterator version(python.parent_path().parent_path() / "lib", failure), end;
       !failure && version != end; version.increment(failure)) {
    const fs::path folder = version->path() / "site-packages/onnxruntime/capi";
    std::error_code absent;
    for (fs::directory_iterator file(folder, absent), last; !absent && file != last; file.increment(absent)) {
      if (file->path().filename().string().starts_with("libonnxruntime.so")) return file->path().string();
    }
  }
  return "";
}

std::string one_line(std::string message) {
  if (!is_utf8(message)) return "its message can't be decoded";
  std::replace(message.begin(), message.end(), '\n', ' ');
  if (message.size() > kMaxMessage) message.resize(kMaxMessage);
  return message;
}

// The newest API that both sides know. Asking for one that the library lacks makes it complain on standard error, so
// its own version says where to begin: "1.23.2" has API 23.
const OrtApi* negotiate(const OrtApiBase& base) {
  const std::string version = base.GetVersionString();
  const auto minor = std::strtoul(version.substr(version.find('.') + 1).c_str(), nullptr, 10);
  for (auto number = std::min<std::uint32_t>(ORT_API_VERSION, minor); number >= kOldestApi; --number) {
    if (const OrtApi* api = base.GetApi(number)) return api;
  }
  return nullptr;
}

}  // namespace

Result<OrtLibrary> OrtLibrary::open(const std::string& file) {
  void* handle = ::dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) return backend_error(one_line(::dlerror()));
  using GetApiBase = const OrtApiBase*(ORT_API_CALL*)();
  const auto get_base = reinterpret_cast<GetApiBase>(::dlsym(handle, "OrtGetApiBase"));
  if (get_base == nullptr) return backend_error(file + " is not ONNX Runtime");
  OrtLibrary library;
  library.file_ = file;
  library.version_ = get_base()->GetVersionString();
  library.api_ = negotiate(*get_base());
  if (library.api_ == nullptr) {
    return backend_error(
        text("ONNX Runtime ", library.version_, " is older than the API ", kOldestApi, " that is needed"));
  }
  const OrtApi& api = library.api();
  CTXRT_CHECK(
      library.check(api.CreateEnv(ORT_LOGGING_LEVEL_FATAL, "ctxrt", &library.env_), "ONNX Runtime does not start"));
  char** names = nullptr;
  int count = 0;
  CTXRT_CHECK(library.check(api.GetAvailableProviders(&names, &count), "ONNX Runtime tells no execution providers"));
  library.providers_.assign(names, names + count);
  CTXRT_CHECK(library.check(api.ReleaseAvailableProviders(names, count), "ONNX Runtime keeps its list"));
  return library;
}

Result<const OrtLibrary*> OrtLibrary::get() {
  static const Result<OrtLibrary> found = []() -> Result<OrtLibrary> {
    if (const auto named = from_environment("CTXRT_ONNXRUNTIME"); !named.empty()) return open(named);
    std::string tried;
    for (const auto& file : {std::string(CTXRT_DEFAULT_ONNXRUNTIME), std::string("libonnxruntime.so.1"),
                             std::string("libonnxruntime.so"), in_wheel(from_environment("CTXRT_PYTHON"))}) {
      if (file.empty()) continue;
      if (auto library = open(file)) return library;
      tried += (tried.empty() ? "" : ", ") + file;
    }
    return Error{ErrorKind::missing_part, "ONNX Runtime is not found: tried " + tried,
                 "set CTXRT_ONNXRUNTIME to libonnxruntime.so, or CTXRT_PYTHON to a Python that has onnxruntime", ""};
  }();
  if (!found) return found.error();
  return &*found;
}

Status OrtLibrary::check(OrtStatus* status, const std::string& what) const {
  if (status == nullptr) return Unit{};
  const std::string message = one_line(api_->GetErrorMessage(status));
  const bool refused = api_->GetErrorCode(status) == ORT_INVALID_ARGUMENT;
  api_->ReleaseStatus(status);
  const bool memory = message.find("allocate") != std::string::npos || message.find("bad_alloc") != std::string::npos;
  if (memory) {
    return Error{ErrorKind::memory_budget, text(what, ": no memory left (", message, ")"),
                 "run shorter inputs or smaller batches", ""};
  }
  if (refused && message.find("while running") != std::string::npos) {  // dtypes and shapes are right, a number is not
    return input_error(text(what, " on the values of an input: ", message), "are all token ids in the vocabulary?");
  }
  return backend_error(text(what, ": ", message));
}

}  // namespace ctxrt::core
