"""Queued jobs, by arrival and by bucket and length; and which of them may run together."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterator

from ctx_runtime.choosing import fits_budget
from ctx_runtime.parity import Form
from ctx_runtime.scheduling.request import QueuedJob
from ctx_runtime.scheduling.settings import Limits

_Ordered = OrderedDict[QueuedJob, None]
"""Jobs in the order of their arrival, with removal of any of them in constant time."""


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
        """The oldest job with as many others as may run with it, and whether no more would be let in.

        Those nearest to it in length come first, of one length the oldest, so that every beginning of the list is a
        batch within the limits too. The queue must not be empty, and stays as it is.

        Args:
            limits: of the backend that runs the oldest job's bucket.
            may_pad: rows of different length may share a batch.
        """
        head = next(iter(self._by_arrival))
        batch = [head]
        shortest = longest = tokens = head.job.row.length
        if head.job.alone or longest >= limits.token_budget:
            return batch, True
        bucket = head.job.bucket
        for mate in self._mates(head, limits.max_padding if may_pad else 0.0):
            length, count = mate.job.row.length, len(batch) + 1
            shortest, longest, tokens = min(shortest, length), max(longest, length), tokens + length
            padded = longest * count
            within = padded <= limits.token_budget and padded - tokens <= limits.max_padding * padded
            form: Form = "unmasked" if shortest == longest else "masked"
            if not within or count > bucket.batch.max or not fits_budget(bucket, form, count, longest):
                return batch, True
            batch.append(mate)
        return batch, len(batch) == bucket.batch.max

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
