// The border between the core and a TensorRT plug-in: one function that a plug-in exports. Core and plug-in are built
// and installed together, so C++ types may cross.
#pragma once

#include <memory>

#include "bundle.h"
#include "session.h"

namespace ctxrt::core {

// Opens an engine of a bundle, if it fits the library and the device of this machine.
using OpenEngine = Result<std::unique_ptr<Session>> (*)(const Bundle& bundle, const EngineRecord& engine);

inline constexpr const char* kOpenEngineSymbol = "ctxrt_open_engine";

}  // namespace ctxrt::core
