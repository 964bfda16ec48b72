"""What a run gives back, and what the runtime tells of itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ctx_runtime.dispatch import Fallback
from ctx_runtime.generation.tally import GenerationStats
from ctx_runtime.resource_profile import BackendName


class Dispatch(NamedTuple):
    """How one row was run.

    Attributes:
        length: of the row, in tokens.
        bucket: the bucket that ran it, or its segments.
        backend: the backend that ran it.
        padding: tokens that were added to it.
        segments: the number of windows that it was cut into; 1 if it was not.
        ms: wall time of the runs that the row had a part in, in milliseconds.
        reason: why this bucket, in words; says so where the row was cut or truncated.
    """

    length: int
    bucket: str
    backend: BackendName
    padding: int
    segments: int
    ms: float
    reason: str


class Result(NamedTuple):
    """Outputs by name, and one `Dispatch` a row.

    Outputs have a batch axis if the inputs had one; token outputs of shorter rows are zero beyond their length.
    """

    outputs: dict[str, np.ndarray]
    dispatch: tuple[Dispatch, ...]


@dataclass(frozen=True)
class Explanation:
    """Where an input of `length` tokens would run, and why.

    Attributes:
        network: the precision and sub-network of the bucket.
        quality: how good that is known to be at this length, in `metric`; both None where nothing is known.
    """

    length: int
    bucket: str
    network: str
    backend: BackendName
    segments: int
    metric: str | None
    quality: float | None
    reason: str


@dataclass
class BucketStats:
    """What ran through one bucket so far; `tokens` and `padding` are counted in tokens.

    Attributes:
        runs: of a graph; every segment of a longer row is one.
        fused: rows whose segments the model fused itself.
    """

    runs: int = 0
    rows: int = 0
    fused: int = 0
    tokens: int = 0
    padding: int = 0
    seconds: float = 0.0


@dataclass
class RequestStats:
    """Submitted requests: how many there are now, and how many ended so far, and how.

    Attributes:
        queued: wait to begin.
        running: have begun, and not ended.
        submitted: were accepted.
        finished: ended with a result.
        failed: ended with an error, the next two excepted.
        cancelled: were cancelled before they began.
        expired: did not begin before their deadline.
        refused: were not accepted, because too many waited.
    """

    queued: int = 0
    running: int = 0
    submitted: int = 0
    finished: int = 0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0
    refused: int = 0


@dataclass(frozen=True)
class Stats:
    """The runtime's state: what ran by bucket, what is open, and what did not go as the profile asked.

    Attributes:
        resident_bytes: private memory of the open sessions, an estimate.
        fallbacks: backends that could not serve a bucket, and weights that could not be shared, with the reason.
        generation: what was generated; None for a bundle that does not generate.
    """

    buckets: dict[str, BucketStats] = field(default_factory=dict)
    open_sessions: int = 0
    resident_bytes: int = 0
    evictions: int = 0
    fallbacks: tuple[Fallback, ...] = ()
    requests: RequestStats = field(default_factory=RequestStats)
    generation: GenerationStats | None = None

    @property
    def queue(self) -> int:
        """Submitted requests that wait."""
        return self.requests.queued

    @property
    def padding_share(self) -> float:
        """Of all tokens that ran so far, the share that was padding."""
        tokens, padding = (sum(getattr(b, key) for b in self.buckets.values()) for key in ("tokens", "padding"))
        return padding / (tokens + padding) if padding else 0.0
