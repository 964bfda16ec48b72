"""How submitted requests are batched and bounded: what an application may set, and what follows from the backend."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ctx_runtime.errors import InputError
from ctx_runtime.manifest import BucketRecord
from ctx_runtime.resource_profile import BackendName


class Limits(NamedTuple):
    """What bounds a batch on one backend.

    Attributes:
        max_wait_s: how long the oldest job waits for others to run with.
        token_budget: tokens of a batch, padding included; a longer row runs alone.
        max_padding: share of a batch's tokens that may be padding.
    """

    max_wait_s: float
    token_budget: int
    max_padding: float


_CPU = Limits(max_wait_s=0.0, token_budget=512, max_padding=0.0)
"""On a CPU a batch of rows of one length gains little, a larger one loses, and padding costs what it computes."""
_GPU = Limits(max_wait_s=0.002, token_budget=16384, max_padding=0.1)
"""A GPU is idle in small batches. Not measured on one."""


@dataclass(frozen=True)
class Scheduling:
    """How `Runtime.submit` batches and bounds requests; what is None follows from the backend that runs them.

    Attributes:
        workers: threads that run batches; by default the cores divided by the threads of a run, on a GPU 1.
        max_wait_ms: how long the oldest request waits for others to run with; by default 0 on a CPU, 2 on a GPU.
        token_budget: tokens of a batch, padding included; by default 512 on a CPU, 16,384 on a GPU. A longer row runs
            alone.
        max_padding: share of a batch's tokens that may be padding; by default 0 on a CPU, 0.1 on a GPU.
        max_queue: requests that may wait; one more is refused with `OverloadError`.
        memory_limit: bytes that the batches which run may take together for intermediate results, by the estimates in
            the bundle; by default what the machine has available while they run on a CPU.

    Raises:
        InputError: a value outside of its range.
    """

    workers: int | None = None
    max_wait_ms: float | None = None
    token_budget: int | None = None
    max_padding: float | None = None
    max_queue: int = 4096
    memory_limit: int | None = None

    def __post_init__(self) -> None:
        ranges = {
            "workers": ("at least 1", self.workers is None or self.workers >= 1),
            "max_wait_ms": ("from 0 to 60,000", self.max_wait_ms is None or 0 <= self.max_wait_ms <= 60_000),
            "token_budget": ("at least 1", self.token_budget is None or self.token_budget >= 1),
            "max_padding": ("at least 0 and below 1", self.max_padding is None or 0 <= self.max_padding < 1),
            "max_queue": ("at least 1", self.max_queue >= 1),
            "memory_limit": ("at least 1", self.memory_limit is None or self.memory_limit >= 1),
        }
        for name, (expected, holds) in ranges.items():
            if not holds:
                raise InputError(f"{name}: expected {expected}, got {getattr(self, name)!r}")

    def limits(self, backend: BackendName) -> Limits:
        """What bounds a batch on `backend`."""
        usual = _CPU if backend == "onnxruntime-cpu" else _GPU
        return Limits(
            max_wait_s=usual.max_wait_s if self.max_wait_ms is None else self.max_wait_ms / 1e3,
            token_budget=self.token_budget or usual.token_budget,
            max_padding=usual.max_padding if self.max_padding is None else self.max_padding,
        )

    def worker_count(self, buckets: Sequence[BucketRecord], backend: BackendName) -> int:
        """The threads that run batches of `buckets` on `backend`, each of them on the threads of its bucket."""
        if self.workers is not None:
            return self.workers
        threads = [bucket.threads for bucket in buckets]
        if backend != "onnxruntime-cpu" or 0 in threads:  # 0: a run takes every core
            return 1
        return max(1, _cores() // max(threads))


def _cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
