"""Takes requests, forms batches of their jobs, and runs these in worker threads."""

from __future__ import annotations

import atexit
import itertools
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace

from ctx_runtime.dispatch import Dispatcher
from ctx_runtime.errors import CtxError, DeadlineError, OverloadError
from ctx_runtime.execution import Execution
from ctx_runtime.manifest import Manifest
from ctx_runtime.padding import Row
from ctx_runtime.results import RequestStats
from ctx_runtime.scheduling.costs import BatchCosts
from ctx_runtime.scheduling.queue import JobQueue
from ctx_runtime.scheduling.request import QueuedJob, Request
from ctx_runtime.scheduling.settings import Scheduling

_NEVER = float("inf")


class Scheduler:
    """Runs submitted requests. Every method may be called from several threads at once.

    Threads start with the first request. The oldest job that waits is always in the next batch: only those that share
    it overtake others.

    Args:
        manifest: of the bundle.
        execution: runs the batches.
        dispatcher: knows the backend of each bucket.
        scheduling: what the application set.
    """

    def __init__(
        self, manifest: Manifest, execution: Execution, dispatcher: Dispatcher, scheduling: Scheduling
    ) -> None:
        self._manifest, self._execution, self._dispatcher = manifest, execution, dispatcher
        self._scheduling = scheduling
        self._queue, self._costs, self._stats = JobQueue(), BatchCosts(), RequestStats()
        self._waiting: dict[Request, None] = {}
        self._running: set[Request] = set()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._accepts, self._closed = True, False
        self._next_deadline = _NEVER
        self._lock = threading.Lock()
        self._work, self._sooner, self._ended = (threading.Condition(self._lock) for _ in range(3))

    def submit(self, rows: Sequence[Row], *, batched: bool, timeout_s: float | None) -> Request:
        """Queue the rows of one input.

        Raises:
            OverloadError: as many requests wait as may.
            CtxError: the scheduler drains or is closed.
            TooLongError, MemoryBudgetError, TimeBudgetError, QualityError: no bucket may run a row.
        """
        plans = [self._execution.plan(row) for row in rows]
        now = time.monotonic()
        deadline = _NEVER if timeout_s is None else now + timeout_s
        request = Request(plans, batched=batched, arrived=now, deadline=deadline, withdraw=self._withdraw)
        with self._lock:
            self._check_accepts()
            self._start()
            self._stats.submitted += 1
            self._waiting[request] = None
            for queued in request.jobs:
                self._queue.add(queued)
            if deadline < self._next_deadline:
                self._next_deadline = deadline
                self._sooner.notify()
            if self._idle:
                self._work.notify()
        return request

    def drain(self, timeout_s: float | None = None) -> bool:
        """Take nothing more, and wait until every accepted request has ended; whether they did within `timeout_s`."""
        with self._lock:
            self._accepts = False
            self._work.notify_all()
            return self._ended.wait_for(lambda: self._stats.open == 0, timeout_s)

    def close(self) -> None:
        """End every request that has not begun with CtxError, and wait for the batches that run."""
        with self._lock:
            self._closed = True
            ended = self._begin_all(list(self._waiting))
            self._work.notify_all()
            self._sooner.notify_all()
        self._fail(ended, (_closed() for _ in ended))
        atexit.unregister(self.close)
        if threading.current_thread() not in self._threads:
            for thread in self._threads:
                thread.join()

    def stats(self) -> RequestStats:
        """How many requests there are and were."""
        with self._lock:
            return replace(self._stats, queued=len(self._waiting), running=len(self._running))

    def _check_accepts(self) -> None:
        if self._closed:
            raise _closed()
        if not self._accepts:
            raise CtxError("the runtime drains and takes no more requests", hint="send it to another replica")
        if len(self._waiting) >= self._scheduling.max_queue:
            self._stats.refused += 1
            raise OverloadError(
                f"{len(self._waiting)} requests wait already",
                retry_after_s=self._costs.seconds(self._queue.tokens) / self._worker_count(),
            )

    def _worker_count(self) -> int:
        backend = self._dispatcher.likely_backend(self._manifest.buckets[0], self._execution.alone)
        return self._scheduling.worker_count(self._manifest.buckets, backend)

    def _start(self) -> None:
        """Start the threads, with the first request."""
        if self._threads:
            return
        targets = [self._serve] * self._worker_count() + [self._watch_deadlines]
        self._threads = [threading.Thread(target=target, name="ctx-runtime", daemon=True) for target in targets]
        atexit.register(self.close)
        for thread in self._threads:
            thread.start()

    def _serve(self) -> None:
        """What a worker does until the scheduler is closed."""
        while (batch := self._next_batch()) is not None:
            self._run(batch)
            del batch  # or its inputs and results would stay until there is another

    def _next_batch(self) -> list[QueuedJob] | None:
        """Wait for a batch and take it; None once the scheduler is closed."""
        with self._lock:
            while not self._closed:
                batch, wait_s = self._take()
                if batch:
                    if len(self._queue) and self._idle:
                        self._work.notify()
                    return batch
                self._idle += 1
                self._work.wait(wait_s)
                self._idle -= 1
            return None

    def _take(self) -> tuple[list[QueuedJob], float | None]:
        """A batch, taken from the queue; or none, and the seconds until there is one: None is until there is news."""
        while (head := self._queue.oldest()) is not None:
            bucket = head.job.bucket
            limits = self._scheduling.limits(self._dispatcher.likely_backend(bucket, self._execution.alone))
            batch, full = self._queue.batch(limits, may_pad=self._execution.may_pad)
            wait_s = head.request.arrived + limits.max_wait_s - time.monotonic()
            if not full and wait_s > 0 and self._accepts:
                return [], wait_s
            size = self._costs.cheapest(bucket.max_length, head.job.row.length, len(batch))
            begun = [queued for queued in batch[:size] if self._begin(queued.request)]
            for queued in begun:
                self._queue.remove(queued)
            if begun:
                return begun, None
        return [], None

    def _run(self, batch: Sequence[QueuedJob]) -> None:
        """Run a batch, and end the requests that waited for nothing else; what it raises ends all of its requests."""
        jobs = [queued.job for queued in batch]
        try:
            results = self._execution.run_batch(jobs)
        except BaseException as error:  # its futures tell it; the worker lives on
            with self._lock:
                failed = [request for request in {queued.request for queued in batch} if self._leave(request)]
            self._fail(failed, itertools.repeat(error))
            return
        lengths = [job.row.length for job in jobs]
        with self._lock:
            seconds = results[0].dispatch[0].ms / 1e3
            self._costs.record(jobs[0].bucket.max_length, max(lengths), len(jobs), sum(lengths), seconds)
            answered = [
                queued.request
                for queued, result in zip(batch, results, strict=True)
                if queued.request in self._running
                and queued.request.answer(queued.index, result)
                and self._leave(queued.request)
            ]
        for request in answered:
            request.succeed(self._execution)
        self._count(answered)

    def _begin(self, request: Request) -> bool:
        """Whether a request runs; the first time, it begins. One that was cancelled does not."""
        if request not in self._waiting:
            return request in self._running
        del self._waiting[request]
        self._running.add(request)
        if request.set_running_or_notify_cancel():
            return True
        self._leave(request)
        request.release()
        self._stats.cancelled += 1
        self._tell_ended()
        return False

    def _leave(self, request: Request) -> bool:
        """Take a request and its jobs out of what runs; whether it was there: who takes it out ends it."""
        if request not in self._running:
            return False
        self._running.remove(request)
        for queued in request.jobs:
            self._queue.remove(queued)
        return True

    def _begin_all(self, requests: Sequence[Request]) -> list[Request]:
        """Those of `requests` that were not cancelled, taken out to be ended."""
        return [request for request in requests if self._begin(request) and self._leave(request)]

    def _withdraw(self, request: Request) -> None:
        """Note that a request was cancelled."""
        with self._lock:
            if request in self._waiting:
                self._begin(request)

    def _fail(self, requests: Sequence[Request], errors: Iterable[BaseException]) -> None:
        for request, error in zip(requests, errors, strict=False):
            request.fail(error)
        self._count(requests)

    def _count(self, ended: Sequence[Request]) -> None:
        """Count requests that have ended."""
        errors = [request.exception() for request in ended]
        expired = sum(isinstance(error, DeadlineError) for error in errors)
        with self._lock:
            self._stats.expired += expired
            self._stats.finished += errors.count(None)
            self._stats.failed += len(errors) - errors.count(None) - expired
            self._tell_ended()

    def _tell_ended(self) -> None:
        if not self._stats.open:
            self._ended.notify_all()

    def _watch_deadlines(self) -> None:
        """End requests at their deadlines."""
        while not self._closed:
            with self._lock:
                now = time.monotonic()
                overdue = self._begin_all([request for request in self._waiting if request.deadline <= now])
                self._next_deadline = min((request.deadline for request in self._waiting), default=_NEVER)
                if not overdue and not self._closed:
                    self._sooner.wait(None if self._next_deadline == _NEVER else self._next_deadline - now)
            self._fail(overdue, map(_missed, overdue))


def _closed() -> CtxError:
    return CtxError("the runtime is closed", hint="open the bundle again with Runtime.open")


def _missed(request: Request) -> DeadlineError:
    return DeadlineError(f"not begun within {request.deadline - request.arrived:g} s")
