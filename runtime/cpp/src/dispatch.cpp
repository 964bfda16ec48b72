#include "dispatch.h"

#include <algorithm>

namespace ctxrt::core {

// A session of the pool: `users` run it now, `last_use` orders eviction.
struct Dispatcher::Slot {
  std::mutex opening;
  std::unique_ptr<Session> session;
  int users = 0;
  std::int64_t last_use = 0;
};

Dispatcher::Dispatcher(const Bundle& bundle, DispatcherOptions options)
    : options_(std::move(options)), opener_(bundle, options_.share_weights) {}

Dispatcher::Lease::~Lease() {
  if (!slot_) return;
  const std::lock_guard lock(owner_->mutex_);
  --slot_->users;
}

Session* Dispatcher::Lease::operator->() const { return slot_->session.get(); }

Result<Dispatcher::Lease> Dispatcher::session(const Bucket& bucket, GraphForm form) {
  std::string reasons;
  for (const auto backend : options_.backends.empty() ? bucket.backends : options_.backends) {
    const std::string key = opener_.key(bucket, form, backend);
    std::string failure;
    {
      const std::lock_guard lock(mutex_);
      if (const auto found = failed_.find(key); found != failed_.end()) failure = found->second;
    }
    if (failure.empty()) {
      auto lease = enter(key, bucket, form, backend);
      const bool may_fall_back =
          !lease && (lease.error().kind == ErrorKind::backend || lease.error().kind == ErrorKind::missing_part);
      if (!may_fall_back) return lease;
      failure = lease.error().message + (lease.error().hint.empty() ? "" : text(" (", lease.error().hint, ")"));
      note_failure(key, {bucket.name, backend, failure});
    }
    reasons += text(reasons.empty() ? "" : "; ", name_of(backend), ": ", failure);
  }
  return backend_error(text("no backend can serve ", bucket.name, ": ", reasons));
}

PoolState Dispatcher::state() const {
  const std::lock_guard lock(mutex_);
  PoolState state{0, 0, evictions_, fallbacks_};
  for (const auto& [key, slot] : slots_) {
    if (!slot->session) continue;
    ++state.open_sessions;
    state.resident_bytes += slot->session->resident_bytes();
  }
  return state;
}

// Counts a user in; the session is opened by the first who comes.
Result<Dispatcher::Lease> Dispatcher::enter(const std::string& key, const Bucket& bucket, GraphForm form,
                                            Backend backend) {
  std::unique_lock lock(mutex_);
  auto& place = slots_[key];
  if (!place) place = std::make_shared<Slot>();
  const auto slot = place;
  ++slot->users;
  slot->last_use = ++clock_;
  Lease lease(*this, slot);
  if (slot->session) return lease;
  lock.unlock();
  const std::lock_guard opening(slot->opening);
  lock.lock();
  if (slot->session) {
    lock.unlock();
    return lease;
  }
  lock.unlock();
  CTXRT_ASSIGN(auto session, opener_.open(bucket, form, backend, [&](const std::string& reason) {
    note_failure("share|" + reason, {bucket.name, backend, reason});
  }));
  CTXRT_CHECK(make_room(*session, slot.get()));
  lock.lock();
  slot->session = std::move(session);
  lock.unlock();
  return lease;
}

// Closes idle sessions, the one used longest ago first, until `newcomer` fits the budget.
Status Dispatcher::make_room(const Session& newcomer, const Slot* own) {
  if (!options_.session_budget) return Unit{};
  const std::int64_t budget = *options_.session_budget;
  if (newcomer.resident_bytes() > budget) {
    return Error{ErrorKind::memory_budget,
                 text("a session needs about ", newcomer.resident_bytes(), " bytes, the session budget is ", budget),
                 "raise session_budget, or set share_weights to mmap", ""};
  }
  std::vector<std::unique_ptr<Session>> closed;  // after the lock is gone
  const std::lock_guard lock(mutex_);
  std::vector<std::map<std::string, std::shared_ptr<Slot>>::iterator> opened;
  std::int64_t total = newcomer.resident_bytes();
  for (auto slot = slots_.begin(); slot != slots_.end(); ++slot) {
    if (slot->second.get() == own || !slot->second->session) continue;
    total += slot->second->session->resident_bytes();
    opened.push_back(slot);
  }
  std::sort(opened.begin(), opened.end(), [](auto a, auto b) { return a->second->last_use < b->second->last_use; });
  for (const auto& slot : opened) {
    if (total <= budget) break;
    if (slot->second->users > 0) continue;
    total -= slot->second->session->resident_bytes();
    closed.push_back(std::move(slot->second->session));
    slots_.erase(slot);
    ++evictions_;
  }
  return Unit{};
}

void Dispatcher::note_failure(const std::string& key, Fallback fallback) {
  const std::lock_guard lock(mutex_);
  failed_[key] = fallback.reason;
  const bool told = std::any_of(fallbacks_.begin(), fallbacks_.end(), [&](const Fallback& other) {
    return other.backend == fallback.backend && other.reason == fallback.reason;
  });
  if (!told) fallbacks_.push_back(std::move(fallback));
}

}  // namespace ctxrt::core
