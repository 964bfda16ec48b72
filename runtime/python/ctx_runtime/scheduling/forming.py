"""Which of the queued jobs run next: the oldest, with as many others as pays and as there is memory for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from ctx_runtime.choosing import activation_bytes
from ctx_runtime.dispatch import Dispatcher
from ctx_runtime.errors import MemoryBudgetError
from ctx_runtime.execution import Execution
from ctx_runtime.manifest import BucketRecord
from ctx_runtime.resource_profile import BackendName
from ctx_runtime.results import Result
from ctx_runtime.scheduling.costs import BatchCosts
from ctx_runtime.scheduling.memory import MemoryGate
from ctx_runtime.scheduling.queue import JobQueue
from ctx_runtime.scheduling.request import QueuedJob
from ctx_runtime.scheduling.settings import Scheduling


@dataclass(eq=False)
class Batch:
    """Jobs that run together.

    Attributes:
        needed: bytes that they are expected to take while they run.
        refusal: why they can't run, where that is so.
    """

    queued: list[QueuedJob]
    needed: int
    refusal: MemoryBudgetError | None


class Former:
    """Forms batches. Not for several threads at once.

    Args:
        execution: runs the batches.
        dispatcher: knows the backend of each bucket.
        scheduling: what the application set.
        queue: the jobs.
    """

    def __init__(self, execution: Execution, dispatcher: Dispatcher, scheduling: Scheduling, queue: JobQueue) -> None:
        self._execution, self._dispatcher = execution, dispatcher
        self._scheduling, self._queue = scheduling, queue
        self._costs, self._memory = BatchCosts(), MemoryGate(scheduling.memory_limit)

    def form(self, *, hurry: bool) -> tuple[Batch | None, float | None]:
        """Take the next batch out of the queue; or none, and the seconds after which there will be one.

        These are None where only news can help: a job, or memory that a running batch gives back.

        Args:
            hurry: wait for no one to share a batch.
        """
        head = self._queue.oldest()
        if head is None:
            return None, None
        bucket = head.job.bucket
        limits = self._scheduling.limits(self._backend(bucket))
        queued, full = self._queue.batch(limits, may_pad=self._execution.may_pad)
        wait_s = head.request.arrived + limits.max_wait_s - time.monotonic()
        if not full and wait_s > 0 and not hurry:
            return None, wait_s
        size = self._costs.cheapest(bucket.max_length, head.job.row.length, len(queued))
        batch = self._within_memory(queued[:size])
        if batch is not None:
            self._memory.taken += batch.needed
            for job in batch.queued:
                self._queue.remove(job)
        return batch, None

    def check(self, queued: Sequence[QueuedJob]) -> None:
        """Refuse jobs of which one could not run even alone.

        Raises:
            MemoryBudgetError: it needs more memory than there is.
        """
        for job in queued:
            if (refusal := self._memory.refusal(self._needed([job]))) is not None:
                raise refusal

    def ran(self, batch: Batch, results: Sequence[Result] | None) -> None:
        """Learn from a batch that has run, with the result of each of its jobs; None: it has failed."""
        self._memory.taken -= batch.needed
        if results is not None:
            head, lengths = batch.queued[0].job, [queued.job.row.length for queued in batch.queued]
            seconds = results[0].dispatch[0].ms / 1e3
            self._costs.record(head.bucket.max_length, head.row.length, len(lengths), sum(lengths), seconds)

    def seconds_queued(self) -> float:
        """What the jobs in the queue would take one worker, an estimate."""
        return self._costs.seconds(self._queue.tokens)

    def _within_memory(self, queued: list[QueuedJob]) -> Batch | None:
        """A batch of the first half of `queued`, and so on, that fits; None where even one must wait for memory."""
        room = self._memory.room()
        while (needed := self._needed(queued)) > room and len(queued) > 1:
            queued = queued[: len(queued) // 2]
        if needed <= room:
            return Batch(queued, needed, None)
        if self._memory.taken:
            return None
        return Batch(queued, 0, self._memory.refusal(needed))

    def _needed(self, queued: Sequence[QueuedJob]) -> int:
        """Bytes of the machine's memory that jobs are expected to take while they run together."""
        job = queued[0].job
        if self._backend(job.bucket) != "onnxruntime-cpu" and self._scheduling.memory_limit is None:
            return 0
        lengths = [queued.job.row.length for queued in queued]
        form = self._execution.alone if min(lengths) == max(lengths) else "masked"
        return activation_bytes(job.bucket, form, len(lengths), min(max(lengths), job.bucket.max_length))

    def _backend(self, bucket: BucketRecord) -> BackendName:
        return self._dispatcher.likely_backend(bucket, self._execution.alone)
