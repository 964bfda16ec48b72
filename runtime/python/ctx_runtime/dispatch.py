"""Length -> bucket -> session, with the reason; sessions are opened on first use and kept under a byte budget."""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from ctx_runtime.backends import Session
from ctx_runtime.backends.opening import GraphForm, open_session, session_key
from ctx_runtime.bundle import Bundle
from ctx_runtime.choosing import Chooser
from ctx_runtime.errors import BackendError, CtxError, MemoryBudgetError, MissingExtraError
from ctx_runtime.manifest import BucketRecord
from ctx_runtime.resource_profile import BackendName, ShareWeights


@dataclass(frozen=True)
class Fallback:
    """A backend of the resource profile that could not serve a bucket, and why."""

    bucket: str
    backend: BackendName
    reason: str


class Slot:
    """A place for a session in the pool. A `with` block ends the use that `Dispatcher.session` has begun.

    Attributes:
        opening: held by the one who opens the session.
        users: how many run it now; while there are any, it stays open.
        last_use: orders eviction.
    """

    __slots__ = ("_pool", "last_use", "opening", "session", "users")

    def __init__(self, pool: threading.Lock) -> None:
        self._pool = pool
        self.opening = threading.Lock()
        self.session: Session | None = None
        self.users = self.last_use = 0

    def __enter__(self) -> Session:
        assert self.session is not None  # noqa: S101 (`Dispatcher.session` gives no empty slot)
        return self.session

    def __exit__(self, *_: object) -> None:
        with self._pool:
            self.users -= 1


class Dispatcher:
    """Picks buckets and keeps sessions. All methods may be called from several threads.

    Args:
        bundle: an opened bundle.
        backends: overrides each bucket's own order of preference.
        share_weights: map repacked weights, or let each session copy them.
        session_budget: sessions in bytes of private memory; the one used longest ago is closed first.
        min_quality: the least quality that an input is run with; None: any.

    Attributes:
        chooser: chooses among the bundle's buckets.
        choose: `chooser.choose`, with what it said of the last lengths.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        backends: Sequence[BackendName] | None,
        share_weights: ShareWeights,
        session_budget: int | None,
        min_quality: float | None = None,
    ) -> None:
        self._bundle = bundle
        self._backends = tuple(backends) if backends is not None else None
        self._share_weights = share_weights
        self._budget = session_budget
        self.chooser = Chooser(bundle.manifest.buckets, bundle.manifest.quality, min_quality)
        self.choose = functools.lru_cache(maxsize=1024)(self.chooser.choose)
        self._lock = threading.Lock()
        self._slots: dict[Hashable, Slot] = {}
        self._failed: dict[Hashable, str] = {}
        self._keys: dict[tuple[int, GraphForm], list[tuple[BackendName, Hashable]]] = {}
        self._serving: dict[tuple[int, GraphForm], Slot] = {}  # what is open, by what asks for it: the short way
        self._clock = 0
        self._closed = self._over_budget = False
        self.fallbacks: list[Fallback] = []
        self.evictions = 0

    def session(self, bucket: BucketRecord, form: GraphForm) -> Slot:
        """The session that serves `bucket`, for one `with` block: it stays open inside.

        Backends are tried in the order of preference. One that fails is not tried again: the reason is kept in
        `fallbacks` and told in one warning.

        Raises:
            BackendError: no backend can serve the bucket.
            MemoryBudgetError: the session alone needs more than the budget.
        """
        with self._lock:
            if (slot := self._serving.get((bucket.max_length, form))) is not None:
                slot.users += 1
                slot.last_use = self._clock = self._clock + 1
                if self._over_budget:
                    self._make_room(None, 0, evict=True)
                return slot
        return self._first_working(bucket, form, evict=True)

    def warm_up(self, form: GraphForm) -> list[str]:
        """Open the sessions of the buckets, smallest first, until there is no room for one more.

        Returns:
            The names of the buckets whose session is open.

        Raises:
            BackendError: no backend can serve a bucket.
        """
        opened: list[str] = []
        for bucket in self._bundle.manifest.buckets:
            try:
                with self._first_working(bucket, form, evict=False):
                    opened.append(bucket.name)
            except MemoryBudgetError:
                break
        return opened

    def _first_working(self, bucket: BucketRecord, form: GraphForm, *, evict: bool) -> Slot:
        """The session of the first backend that can serve `bucket`, as `session` gives it.

        Where others may not be closed to make room for it, and there is none, it raises MemoryBudgetError.
        """
        reasons = []
        for backend, key in self._keys.get((bucket.max_length, form)) or self._new_keys(bucket, form):
            if (failure := self._failed.get(key)) is None:
                try:
                    slot = self._enter(key, bucket, form, backend, evict)
                    self._note_serving(bucket, form, slot)
                    return slot
                except (BackendError, MissingExtraError) as error:
                    failure = str(error) + (f" ({error.hint})" if error.hint else "")
                    self._note_failure(key, Fallback(bucket.name, backend, failure))
            reasons.append(f"{backend}: {failure}")
        raise BackendError(f"no backend can serve {bucket.name}: {'; '.join(reasons)}")

    def likely_backend(self, bucket: BucketRecord, form: GraphForm) -> BackendName:
        """The backend that would run `bucket`: the first that has not failed. Opens nothing."""
        keys = self._keys.get((bucket.max_length, form)) or self._new_keys(bucket, form)
        return next((backend for backend, key in keys if key not in self._failed), keys[0][0])

    def open_sessions(self) -> list[Session]:
        """The sessions that are open now."""
        with self._lock:
            return [slot.session for slot in self._slots.values() if slot.session is not None]

    def close(self) -> None:
        """Close every session; one that still runs goes when its run ends."""
        with self._lock:
            self._closed = True
            sessions = [slot.session for slot in self._slots.values() if slot.session is not None]
            self._slots.clear()
            self._serving.clear()
        for session in sessions:
            session.close()

    def _new_keys(self, bucket: BucketRecord, form: GraphForm) -> list[tuple[BackendName, Hashable]]:
        """Backends in the order of preference, with the key of the session that serves `bucket` on each."""
        backends = self._backends or bucket.backends
        keys = [(backend, session_key(self._bundle, bucket, form, backend)) for backend in backends]
        self._keys[bucket.max_length, form] = keys
        return keys

    def _enter(self, key: Hashable, bucket: BucketRecord, form: GraphForm, backend: BackendName, evict: bool) -> Slot:
        """Count a user into the slot of `key`, whose session is opened by the first who comes."""
        with self._lock:
            self._check_open()
            slot = self._slots.get(key)
            if slot is None:
                slot = self._slots[key] = Slot(self._lock)
            slot.users += 1
            slot.last_use = self._clock = self._clock + 1
        if slot.session is None:
            try:
                with slot.opening:
                    if slot.session is None:
                        self._admit(key, slot, self._open(bucket, form, backend), evict)
            except BaseException:
                with self._lock:
                    slot.users -= 1
                raise
        return slot

    def _open(self, bucket: BucketRecord, form: GraphForm, backend: BackendName) -> Session:
        def not_shared(reason: str) -> None:
            self._note_failure(("share", reason), Fallback(bucket.name, backend, reason))

        return open_session(
            self._bundle, bucket, form, backend, share_weights=self._share_weights, on_fallback=not_shared
        )

    def _admit(self, key: Hashable, slot: Slot, newcomer: Session, evict: bool) -> None:
        """Put a new session into its slot; to `evict`, close idle ones, used longest ago first, to make room for it."""
        try:
            with self._lock:
                self._check_open()
                self._make_room(key, newcomer.resident_bytes, evict)
                slot.session = newcomer
        except BaseException:
            newcomer.close()
            raise

    def _check_open(self) -> None:
        if self._closed:
            raise CtxError("the runtime is closed", hint="open the bundle again with Runtime.open")

    def _make_room(self, key: Hashable, needed: int, evict: bool) -> None:
        """Close idle sessions until `needed` bytes fit beside the others; those in use go once they are idle."""
        if self._budget is None:
            return
        if needed > self._budget:
            raise MemoryBudgetError(
                f"a session needs about {needed} bytes, the session budget is {self._budget}",
                hint="raise session_budget, or set share_weights to mmap",
            )
        opened = {other: slot for other, slot in self._slots.items() if slot.session is not None and other != key}
        total = needed + sum(slot.session.resident_bytes for slot in opened.values() if slot.session)
        if total > self._budget and not evict:
            raise MemoryBudgetError(f"the session budget of {self._budget} bytes has no room for one more session")
        for other, slot in sorted(opened.items(), key=lambda item: item[1].last_use):
            if total > self._budget and slot.users == 0 and slot.session is not None:
                total -= slot.session.resident_bytes
                self._slots.pop(other)
                self._serving = {asked: kept for asked, kept in self._serving.items() if kept is not slot}
                slot.session.close()
                self.evictions += 1
        self._over_budget = total > self._budget

    def _note_serving(self, bucket: BucketRecord, form: GraphForm, slot: Slot) -> None:
        with self._lock:
            if not self._closed:
                self._serving[bucket.max_length, form] = slot

    def _note_failure(self, key: Hashable, fallback: Fallback) -> None:
        with self._lock:
            self._failed[key] = fallback.reason
            if any((told.backend, told.reason) == (fallback.backend, fallback.reason) for told in self.fallbacks):
                return
            self.fallbacks.append(fallback)
        warnings.warn(f"{fallback.bucket}: {fallback.backend}: {fallback.reason}", RuntimeWarning, stacklevel=5)
