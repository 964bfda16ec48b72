// Length -> bucket -> session, with the reason; sessions are opened on first use and kept under a byte budget.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "opening.h"

namespace ctxrt::core {

// A backend of the resource profile that could not serve a bucket, or weights that could not be shared, and why.
struct Fallback {
  std::string bucket;
  Backend backend;
  std::string reason;
};

struct DispatcherOptions {
  std::vector<Backend> backends;  // overrides each bucket's own order of preference; empty: does not
  ShareWeights share_weights = ShareWeights::mmap;
  std::optional<std::int64_t> session_budget;  // bytes of private memory of the open sessions together
};

struct PoolState {
  std::size_t open_sessions = 0;
  std::int64_t resident_bytes = 0, evictions = 0;
  std::vector<Fallback> fallbacks;
};

// Picks sessions and keeps them. All methods may be called from several threads.
class Dispatcher {
  struct Slot;

 public:
  Dispatcher(const Bundle& bundle, DispatcherOptions options);

  // A session that stays open as long as this.
  class Lease {
   public:
    Lease(Dispatcher& owner, std::shared_ptr<Slot> slot) : owner_(&owner), slot_(std::move(slot)) {}
    Lease(Lease&& other) noexcept = default;
    Lease& operator=(Lease&&) = delete;
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    ~Lease();
    Session* operator->() const;

   private:
    Dispatcher* owner_;
    std::shared_ptr<Slot> slot_;
  };

  // The session that serves `bucket`, once the weights are known to be sound. Backends are tried in the order of
  // preference; one that fails is not tried again.
  Result<Lease> session(const Bucket& bucket, GraphForm form);
  PoolState state() const;

 private:
  Result<Lease> enter(const std::string& key, const Bucket& bucket, GraphForm form, Backend backend);
  Status make_room(const Session& newcomer, const Slot* own);
  void note_failure(const std::string& key, Fallback fallback);

  const DispatcherOptions options_;
  Opener opener_;
  mutable std::mutex mutex_;  // guards everything below, but for a slot's session while it is opened
  std::map<std::string, std::shared_ptr<Slot>> slots_;
  std::map<std::string, std::string> failed_;  // why, by the key of a session
  std::vector<Fallback> fallbacks_;
  std::int64_t clock_ = 0, evictions_ = 0;
};

}  // namespace ctxrt::core
