#include "tensorrt_loader.h"

#include <dlfcn.h>

#include "tensorrt_plugin.h"

namespace ctxrt::core {
namespace {

// libctxrt_tensorrt10.so, libctxrt_tensorrt_rtx1.so, …: one for each library and major version.
std::string plugin_file(const EngineRecord& engine) {
  const std::string major = engine.library_version.substr(0, engine.library_version.find('.'));
  return text("libctxrt_", engine.backend == Backend::tensorrt ? "tensorrt" : "tensorrt_rtx", major, ".so");
}

// The folder of the library or program that this code is in.
Path own_folder() {
  Dl_info info{};
  if (::dladdr(reinterpret_cast<void*>(&own_folder), &info) == 0 || info.dli_fname == nullptr) return {};
  return Path(info.dli_fname).parent_path();
}

// A plug-in stays loaded: its sessions may live as long as the process.
Result<OpenEngine> load_plugin(const EngineRecord& engine) {
  const std::string file = plugin_file(engine);
  void* handle = nullptr;
  for (const Path& path : {own_folder() / file, Path(CTXRT_PLUGIN_FOLDER) / file, Path(file)}) {
    if (handle == nullptr) handle = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  }
  if (handle == nullptr) return backend_error(text("the plug-in ", file, " is not installed"));
  void* found = ::dlsym(handle, kOpenEngineSymbol);
  if (found == nullptr) return backend_error(file + " is not a plug-in of ctxrt");
  return reinterpret_cast<OpenEngine>(found);
}

}  // namespace

Result<std::unique_ptr<Session>> open_engine(const Bundle& bundle, const Bucket& bucket, Backend backend) {
  std::string reasons;
  for (const auto& engine : bundle.manifest.engines) {
    if (engine.backend != backend || !engine.optimization_profiles.contains(bucket.name)) continue;
    const auto open = load_plugin(engine);
    auto session = open ? (*open)(bundle, engine) : Result<std::unique_ptr<Session>>(open.error());
    if (session || session.error().kind != ErrorKind::backend) return session;
    reasons += (reasons.empty() ? "" : "; ") + session.error().message;
  }
  if (reasons.empty()) return backend_error(text("the bundle has no ", name_of(backend), " engine for ", bucket.name));
  return backend_error(reasons, "build one here: ctx-export engines BUNDLE");
}

}  // namespace ctxrt::core
