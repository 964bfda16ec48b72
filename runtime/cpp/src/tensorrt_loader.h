// TensorRT lies in a shared object of its own for each major version of the library, opened when an engine fits; the
// core is built and runs without any.
#pragma once

#include <memory>

#include "bundle.h"
#include "session.h"

namespace ctxrt::core {

// The session of an engine of the bundle that serves `bucket` on `backend`.
Result<std::unique_ptr<Session>> open_engine(const Bundle& bundle, const Bucket& bucket, Backend backend);

}  // namespace ctxrt::core
