"""Which rows run together: a batch is of one bucket, sorted by length, within its batch, padding and memory limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ctx_runtime.choosing import fits_budget
from ctx_runtime.manifest import BucketRecord
from ctx_runtime.padding import Row

_MAX_PADDING = 0.25
"""A batch is closed before its padding grows beyond this share of its tokens."""


class Job(NamedTuple):
    """A row that fits a bucket: a whole input, or one window of a longer one.

    Attributes:
        alone: it runs in a batch of its own: windows are faster and take less memory one by one on a CPU.
        reason: why this bucket, in words.
    """

    row: Row
    bucket: BucketRecord
    alone: bool
    reason: str


def form_batches(jobs: Sequence[Job], *, may_pad: bool) -> list[list[int]]:
    """Indices of `jobs` that run together; every index stands in one batch.

    Args:
        jobs: in any order.
        may_pad: rows of different length may share a batch; where not, only rows of equal length do.
    """
    order = sorted(range(len(jobs)), key=lambda index: (jobs[index].bucket.max_length, jobs[index].row.length))
    batches: list[list[int]] = []
    for index in order:
        if batches and _may_join([jobs[member] for member in batches[-1]], jobs[index], may_pad):
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def _may_join(members: Sequence[Job], job: Job, may_pad: bool) -> bool:
    """Whether `job`, which is at least as long as `members`, may run with them."""
    bucket, longest, count = job.bucket, job.row.length, len(members) + 1
    if job.alone or members[0].alone or bucket is not members[0].bucket or count > bucket.batch.max:
        return False
    missing = sum(longest - member.row.length for member in members)
    if missing == 0:
        return fits_budget(bucket, "unmasked", count, longest)
    within = missing <= _MAX_PADDING * longest * count
    return may_pad and within and fits_budget(bucket, "masked", count, longest)
