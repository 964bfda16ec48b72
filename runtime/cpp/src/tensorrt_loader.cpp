#include "tensorrt_loader.h"
namespace ctxrt::core {
Result<std::unique_ptr<Session>> open_engine(const Bundle& bundle, const Bucket& bucket, Backend backend) {
  for (const auto& engine : bundle.manifest.engines) {
    if (engine.backend == backend && engine.optimization_profiles.contains(bucket.name)) {
      return backend_error(text(name_of(backend), " ", engine.library_version, " is not built into this ctxrt"));
    }
  }
  return backend_error(text("the bundle has no ", name_of(backend), " engine for ", bucket.name));
}
}
