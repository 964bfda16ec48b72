// Backends: what opens a graph or an engine of a bundle and runs it.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "manifest.h"
#include "result.h"
#include "tensor.h"

namespace ctxrt::core {

// Stops the runs that it was given to, from any thread; once cancelled it stays so.
class CancelToken {
 public:
  bool cancelled() const { return cancelled_; }

  void cancel() {
    const std::lock_guard lock(mutex_);
    cancelled_ = true;
    for (const auto& stop : running_) stop();
  }

  // Calls `stop` if `cancel` is called before the guard goes.
  class Guard {
   public:
    Guard(CancelToken* token, std::function<void()> stop) : token_(token) {
      if (token_ == nullptr) return;
      const std::lock_guard lock(token_->mutex_);
      if (token_->cancelled_) stop();
      place_ = token_->running_.insert(token_->running_.end(), std::move(stop));
    }
    ~Guard() {
      if (token_ == nullptr) return;
      const std::lock_guard lock(token_->mutex_);
      token_->running_.erase(place_);
    }
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;

   private:
    CancelToken* token_;
    std::list<std::function<void()>>::iterator place_;
  };

 private:
  std::mutex mutex_;
  std::atomic<bool> cancelled_{false};
  std::list<std::function<void()>> running_;
};

inline Error cancelled_error() { return {ErrorKind::cancelled, "the run was cancelled", "", ""}; }

// An array of a bound run; nothing in it is owned.
struct BoundArray {
  std::string name;
  DType dtype = DType::float32;
  Shape shape;
  std::byte* data = nullptr;
};

// A run over arrays that stay, read and written in place each time. It must go before its session does.
class BoundRun {
 public:
  BoundRun() = default;
  virtual ~BoundRun() = default;
  BoundRun(const BoundRun&) = delete;
  BoundRun& operator=(const BoundRun&) = delete;

  virtual Status run(CancelToken* cancel) = 0;
};

// One opened graph or engine. `run` and `bind` may be called from several threads at once.
class Session {
 public:
  Session() = default;
  virtual ~Session() = default;
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  virtual Backend backend() const = 0;
  // The names that it takes; the mask is absent from a mask-free graph.
  virtual const std::vector<std::string>& inputs() const = 0;
  // Private memory that it keeps while open, an estimate in bytes: what the byte budget counts.
  virtual std::int64_t resident_bytes() const = 0;
  // Runs feeds that hold at least the session's inputs, with the resources of `bucket`; every output by name.
  virtual Result<Tensors> run(const Tensors& feeds, const Bucket& bucket, CancelToken* cancel) = 0;
  // A run over these arrays, each of which may be an input and an output: a cache. `backend` where there is none.
  virtual Result<std::unique_ptr<BoundRun>> bind(std::span<const BoundArray> /*inputs*/,
                                                 std::span<const BoundArray> /*outputs*/, const Bucket& bucket) {
    return backend_error(text(bucket.name, ": ", name_of(backend()), " can't run over a KV cache in place"),
                         "name an onnxruntime backend");
  }
};

}  // namespace ctxrt::core
