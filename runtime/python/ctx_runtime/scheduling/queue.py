"""Queued jobs, by arrival and by bucket and length; and which of them may run together."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from ctx_runtime.choosing import fits_budget
from ctx_runtime.manifest import BucketRecord
from ctx_runtime.parity import Form
from ctx_runtime.scheduling.request import QueuedJob
from ctx_runtime.scheduling.settings import Limits

_Ordered = OrderedDict[QueuedJob, None]
"""Jobs in the order of their arrival, with removal of any of them in constant time."""


class _Extent(NamedTuple):
    """The rows of a batch: how many, their shortest and longest length, and their tokens without padding."""

    rows: int
    shortest: int
    longest: int
    tokens: int

    @classmethod
    def of(cls, length: int) -> _Extent:
        return cls(1, length, length, length)

    def with_row(self, length: int) -> _Extent:
        return _Extent(self.rows + 1, min(self.shortest, length), max(self.longest, length), self.tokens + length)

    @property
    def padded(self) -> int:
        """Tokens with padding."""
        return self.rows * self.longest

    def fits(self, bucket: BucketRecord, limits: Limits) -> bool:
        """Whether `bucket` takes so much, and a batch on its backend may hold it."""
        form: Form = "unmasked" if self.shortest == self.longest else "masked"
        within = self.rows <= bucket.batch.max and self.padded <= limits.token_budget
        return within and fits_budget(bucket, form, self.rows, self.longest)


class JobQueue:
    """Not for several threads at once."""

    def __init__(self) -> None:
        self._by_arrival: _Ordered = OrderedDict()
        self._by_length: defaultdict[int, dict[int, _Ordered]] = defaultdict(dict)
        self.tokens = 0

    def __len__(self) -> int:
        return len(self._by_arrival)

    def add(self, queued: QueuedJob) -> None:
        """Put a job at the end."""
        bucket, length = queued.job.bucket.max_length, queued.job.row.length
        self._by_arrival[queued] = None
        self._by_length[bucket].setdefault(length, OrderedDict())[queued] = None
        self.tokens += length

    def remove(self, queued: QueuedJob) -> None:
        """Take a job out; one that is not there is none."""
        if queued not in self._by_arrival:
            return
        del self._by_arrival[queued]
        bucket, length = queued.job.bucket.max_length, queued.job.row.length
        same_length = self._by_length[bucket][length]
        del same_length[queued]
        if not same_length:
            del self._by_length[bucket][length]
        self.tokens -= length

    def oldest(self) -> QueuedJob | None:
        """The job that has waited longest."""
        return next(iter(self._by_arrival), None)

    def batch(self, limits: Limits, *, may_pad: bool) -> tuple[list[QueuedJob], bool]:
        """The oldest job with as many others as may run with it, and whether it has no room for more.

        Those nearest to it in length come first, of one length the oldest, so that every beginning of the list is a
        batch within the limits too. The queue must not be empty, and stays as it is.

        Args:
            limits: of the backend that runs the oldest job's bucket.
            may_pad: rows of different length may share a batch.
        """
        head = next(iter(self._by_arrival))
        batch, bucket = [head], head.job.bucket
        extent = _Extent.of(head.job.row.length)
        if head.job.alone:
            return batch, True
        for mate in self._mates(head, limits.max_padding if may_pad else 0.0):
            grown = extent.with_row(mate.job.row.length)
            if grown.padded - grown.tokens > limits.max_padding * grown.padded:
                break
            if not grown.fits(bucket, limits):
                return batch, True
            batch.append(mate)
            extent = grown
        return batch, not extent.with_row(extent.longest).fits(bucket, limits)

    def _mates(self, head: QueuedJob, max_padding: float) -> Iterator[QueuedJob]:
        """Others of the same bucket that a batch with `head` could hold, nearest in length first."""
        length, by_length = head.job.row.length, self._by_length[head.job.bucket.max_length]
        near = [length]
        if max_padding:
            near = sorted(by_length, key=lambda other: abs(other - length))
        for other in near:
            for queued in by_length[other]:
                if queued is not head and not queued.job.alone:
                    yield queued
