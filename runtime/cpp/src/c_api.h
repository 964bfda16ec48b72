// What the parts of the C interface share: handles over the C++ classes, and errors as codes.
#pragma once

#include <exception>
#include <memory>
#include <new>

#include "ctxrt/ctxrt.h"
#include "runtime.h"

struct ctxrt_runtime {
  std::unique_ptr<ctxrt::core::Runtime> runtime;
  ctxrt::core::DispatcherOptions verifying;
};
struct ctxrt_cancel {
  ctxrt::core::CancelToken token;
};

namespace ctxrt::core {

// Keeps the error for this thread, and gives its code.
ctxrt_status fail(Error error);

// Runs `work`, which gives a Status; what it throws becomes an error too.
template <class Work>
ctxrt_status guarded(Work work) noexcept {
  try {
    Status done = work();
    return done ? CTXRT_OK : fail(std::move(done).error());
  } catch (const std::bad_alloc&) {
    return fail({ErrorKind::memory_budget, "no memory left", "run shorter inputs or smaller batches", ""});
  } catch (const std::exception& error) {
    return fail({ErrorKind::internal, error.what(), "report it", ""});
  }
}

template <class... Pointers>
Status check_pointers(const Pointers*... pointers) {
  if (((pointers != nullptr) && ...)) return Unit{};
  return input_error("a pointer is null");
}

inline Status check_index(std::size_t index, std::size_t size) {
  if (index < size) return Unit{};
  return input_error(text("index ", index, " of ", size));
}

}  // namespace ctxrt::core
