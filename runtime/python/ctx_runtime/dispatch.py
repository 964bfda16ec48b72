"""Length -> bucket -> session, with the reason; sessions are opened on first use and kept under a byte budget."""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

from ctx_runtime.backends import Session
from ctx_runtime.backends.opening import open_session, session_key
from ctx_runtime.bucket import find_bucket
from ctx_runtime.bundle import Bundle
from ctx_runtime.errors import BackendError, CtxError, MemoryBudgetError, MissingExtraError
from ctx_runtime.manifest import BucketRecord
from ctx_runtime.parity import Form
from ctx_runtime.resource_profile import BackendName, ShareWeights


@dataclass(frozen=True)
class Fallback:
    """A backend of the resource profile that could not serve a bucket, and why."""

    bucket: str
    backend: BackendName
    reason: str


@dataclass
class _Slot:
    """A session of the pool: `users` run it now, `last_use` orders eviction."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    session: Session | None = None
    users: int = 0
    last_use: int = 0


class Lease:
    """Keeps a session open inside a `with` block."""

    __slots__ = ("_lock", "_session", "_slot")

    def __init__(self, slot: _Slot, session: Session, lock: threading.Lock) -> None:
        self._slot, self._session, self._lock = slot, session, lock

    def __enter__(self) -> Session:
        return self._session

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._slot.users -= 1


def fits_budget(bucket: BucketRecord, form: Form, batch: int, length: int) -> bool:
    """Whether the memory budget of `bucket` takes `batch` rows of `length` tokens in a graph of `form`."""
    activation = bucket.activation if form == "unmasked" else bucket.masked_activation
    return bucket.memory_budget is None or activation.bytes_for(batch, length) <= bucket.memory_budget


class Dispatcher:
    """Picks buckets and keeps sessions. All methods may be called from several threads.

    Args:
        bundle: an opened bundle.
        backends: overrides each bucket's own order of preference.
        share_weights: map repacked weights, or let each session copy them.
        session_budget: sessions in bytes of private memory; the one used longest ago is closed first.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        backends: Sequence[BackendName] | None,
        share_weights: ShareWeights,
        session_budget: int | None,
    ) -> None:
        self._bundle = bundle
        self._backends = tuple(backends) if backends is not None else None
        self._share_weights = share_weights
        self._budget = session_budget
        self._lock = threading.Lock()
        self._slots: dict[Hashable, _Slot] = {}
        self._failed: dict[Hashable, str] = {}
        self._keys: dict[tuple[str, Form], list[tuple[BackendName, Hashable]]] = {}
        self._clock = 0
        self._closed = False
        self.fallbacks: list[Fallback] = []
        self.evictions = 0

    def choose(self, length: int, *, batch: int = 1) -> tuple[BucketRecord, str] | None:
        """The smallest bucket that holds `length` tokens and whose memory budget takes them, with the reason.

        None if no bucket is long enough.

        Raises:
            MemoryBudgetError: buckets are long enough, but none may take so much memory.
        """
        buckets = self._bundle.manifest.buckets
        first = find_bucket(buckets, length)
        if first is None:
            return None
        for bucket in buckets[first:]:
            if fits_budget(bucket, "unmasked", batch, length):
                reason = f"{length} tokens fit {bucket.min_length}..{bucket.max_length}"
                if bucket is not buckets[first]:
                    reason = f"{length} tokens need more memory in {buckets[first].name} than its budget"
                return bucket, reason
        raise MemoryBudgetError(
            f"{batch} x {length} tokens need more memory than the budget of every bucket that holds them",
            hint=f"the longest input that fits is {self._longest_within_budget()} tokens",
        )

    def session(self, bucket: BucketRecord, form: Form) -> Lease:
        """The session that serves `bucket`; it stays open inside a `with` block of the lease.

        Backends are tried in the order of preference. One that fails is not tried again: the reason is kept in
        `fallbacks` and told in one warning.

        Raises:
            BackendError: no backend can serve the bucket.
            MemoryBudgetError: the session alone needs more than the budget.
        """
        reasons = []
        for backend, key in self._candidates(bucket, form):
            if (failure := self._failed.get(key)) is None:
                try:
                    return self._enter(key, functools.partial(self._open, bucket, form, backend))
                except (BackendError, MissingExtraError) as error:
                    failure = str(error) + (f" ({error.hint})" if error.hint else "")
                    self._note_failure(key, Fallback(bucket.name, backend, failure))
            reasons.append(f"{backend}: {failure}")
        raise BackendError(f"no backend can serve {bucket.name}: {'; '.join(reasons)}")

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
        for session in sessions:
            session.close()

    def _candidates(self, bucket: BucketRecord, form: Form) -> list[tuple[BackendName, Hashable]]:
        """Backends in the order of preference, with the key of the session that serves `bucket` on each."""
        known = self._keys.get((bucket.name, form))
        if known is None:
            backends = self._backends or bucket.backends
            known = [(backend, session_key(self._bundle, bucket, form, backend)) for backend in backends]
            self._keys[bucket.name, form] = known
        return known

    def _enter(self, key: Hashable, opener: Callable[[], Session]) -> Lease:
        """Count a user in and give the slot's session, opened by the first who comes."""
        with self._lock:
            self._check_open()
            slot = self._slots.setdefault(key, _Slot())
            slot.users += 1
            self._clock += 1
            slot.last_use = self._clock
            session = slot.session
        if session is not None:
            return Lease(slot, session, self._lock)
        try:
            with slot.lock:
                if slot.session is None:
                    self._admit(key, slot, opener())
                assert slot.session is not None  # noqa: S101 (`_admit` has set it)
                return Lease(slot, slot.session, self._lock)
        except BaseException:
            with self._lock:
                slot.users -= 1
            raise

    def _open(self, bucket: BucketRecord, form: Form, backend: BackendName) -> Session:
        def not_shared(reason: str) -> None:
            self._note_failure(("share", reason), Fallback(bucket.name, backend, reason))

        return open_session(
            self._bundle, bucket, form, backend, share_weights=self._share_weights, on_fallback=not_shared
        )

    def _admit(self, key: Hashable, slot: _Slot, newcomer: Session) -> None:
        """Put a new session into its slot, and close idle ones, those used longest ago first, to make room for it."""
        try:
            with self._lock:
                self._check_open()
                self._make_room(key, newcomer.resident_bytes)
                slot.session = newcomer
        except BaseException:
            newcomer.close()
            raise

    def _check_open(self) -> None:
        if self._closed:
            raise CtxError("the runtime is closed", hint="open the bundle again with Runtime.open")

    def _make_room(self, key: Hashable, needed: int) -> None:
        if self._budget is None:
            return
        if needed > self._budget:
            raise MemoryBudgetError(
                f"a session needs about {needed} bytes, the session budget is {self._budget}",
                hint="raise session_budget, or set share_weights to mmap",
            )
        opened = {other: slot for other, slot in self._slots.items() if slot.session is not None and other != key}
        total = needed + sum(slot.session.resident_bytes for slot in opened.values() if slot.session)
        for other, slot in sorted(opened.items(), key=lambda item: item[1].last_use):
            if total > self._budget and slot.users == 0 and slot.session is not None:
                total -= slot.session.resident_bytes
                self._slots.pop(other)
                slot.session.close()
                self.evictions += 1

    def _note_failure(self, key: Hashable, fallback: Fallback) -> None:
        with self._lock:
            self._failed[key] = fallback.reason
            if any((told.backend, told.reason) == (fallback.backend, fallback.reason) for told in self.fallbacks):
                return
            self.fallbacks.append(fallback)
        warnings.warn(f"{fallback.bucket}: {fallback.backend}: {fallback.reason}", RuntimeWarning, stacklevel=5)

    def _longest_within_budget(self) -> int:
        """The longest single row that some bucket's budget takes, in tokens; 0 if none."""
        longest = 0
        for bucket in self._bundle.manifest.buckets:
            low, high = bucket.min_length - 1, bucket.max_length
            while low < high:
                middle = (low + high + 1) // 2
                low, high = (middle, high) if fits_budget(bucket, "unmasked", 1, middle) else (low, middle - 1)
            longest = max(longest, low if low >= bucket.min_length else 0)
        return longest
