"""Takes requests, and runs batches of their jobs in worker threads."""

from __future__ import annotations

import atexit
import itertools
import threading
import time
from collections.abc import Iterable, Sequence

from ctx_runtime.batching import Job
from ctx_runtime.dispatch import Dispatcher
from ctx_runtime.errors import CtxError, DeadlineError, OverloadError
from ctx_runtime.execution import Execution
from ctx_runtime.manifest import Manifest
from ctx_runtime.padding import Row
from ctx_runtime.results import RequestStats, Result
from ctx_runtime.scheduling.backlog import Backlog
from ctx_runtime.scheduling.forming import Batch, Former
from ctx_runtime.scheduling.request import Request
from ctx_runtime.scheduling.settings import Scheduling

_NEVER = float("inf")


class Scheduler:
    """Runs submitted requests. Every method may be called from several threads at once.

    Threads start with the first request. Futures are ended outside of the lock: their callbacks may do anything.

    Args:
        manifest: of the bundle.
        execution: runs the batches.
        dispatcher: knows the backend of each bucket.
        scheduling: what the application set.
    """

    def __init__(
        self, manifest: Manifest, execution: Execution, dispatcher: Dispatcher, scheduling: Scheduling
    ) -> None:
        self._execution, self._scheduling = execution, scheduling
        backend = dispatcher.likely_backend(manifest.buckets[0], execution.alone)
        self._worker_count = scheduling.worker_count(manifest.buckets, backend)
        self._backlog = Backlog()
        self._former = Former(execution, dispatcher, scheduling, self._backlog.queue)
        self._threads: list[threading.Thread] = []
        self._idle = self._worth_a_look = 0
        self._accepts, self._closed = True, False
        self._next_deadline = _NEVER
        self._lock = threading.Lock()
        self._work, self._sooner, self._ended = (threading.Condition(self._lock) for _ in range(3))

    def submit(self, rows: Sequence[Row], *, batched: bool, timeout_s: float | None) -> Request:
        """Queue the rows of one input, which are copied.

        Raises:
            OverloadError: as many requests wait as may.
            CtxError: the scheduler drains or is closed.
            TooLongError, MemoryBudgetError, TimeBudgetError, QualityError: no bucket may run a row.
        """
        plans = [self._execution.plan(_copied(row)) for row in rows]
        now = time.monotonic()
        deadline = _NEVER if timeout_s is None else now + timeout_s
        request = Request(plans, batched=batched, arrived=now, deadline=deadline, withdraw=self._withdraw)
        with self._lock:
            self._check_accepts()
            self._former.check(request.jobs)
            self._start()
            self._backlog.accept(request)
            if deadline < self._next_deadline:
                self._next_deadline = deadline
                self._sooner.notify()
            if self._idle and len(self._backlog.queue) >= self._worth_a_look:
                self._work.notify()
        return request

    def drain(self, timeout_s: float | None = None) -> bool:
        """Take nothing more, and wait until every accepted request has ended; whether they did within `timeout_s`."""
        with self._lock:
            self._accepts = False
            self._work.notify_all()
            return self._ended.wait_for(lambda: self._backlog.empty, timeout_s)

    def close(self) -> None:
        """End every request that has not begun with CtxError, and wait for the batches that run."""
        with self._lock:
            self._closed = True
            ended = self._backlog.take_out(list(self._backlog.waiting))
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
            return self._backlog.stats()

    def _check_accepts(self) -> None:
        if self._closed:
            raise _closed()
        if not self._accepts:
            raise CtxError("the runtime drains and takes no more requests", hint="send it to another replica")
        waiting = len(self._backlog.waiting)
        if waiting >= self._scheduling.max_queue:
            self._backlog.refuse()
            seconds = self._former.seconds_queued() / self._worker_count
            raise OverloadError(f"{waiting} requests wait already", retry_after_s=seconds)

    def _start(self) -> None:
        """Start the threads, with the first request."""
        if self._threads:
            return
        targets = [self._serve] * self._worker_count + [self._watch_deadlines]
        self._threads = [threading.Thread(target=target, name="ctx-runtime", daemon=True) for target in targets]
        atexit.register(self.close)
        for thread in self._threads:
            thread.start()

    def _serve(self) -> None:
        """What a worker does until the scheduler is closed."""
        while (batch := self._next_batch()) is not None:
            self._run(batch)
            del batch  # or its inputs would stay until there is another

    def _next_batch(self) -> Batch | None:
        """Wait for a batch and take it; None once the scheduler is closed."""
        with self._lock:
            while not self._closed:
                batch, wait_s = self._former.form(hurry=not self._accepts)
                if batch is None:
                    self._wait(wait_s)
                    continue
                batch.queued = [queued for queued in batch.queued if self._backlog.begin(queued.request)]
                if batch.queued:
                    self._worth_a_look = 0
                    if self._idle and len(self._backlog.queue):
                        self._work.notify()
                    return batch
                self._former.ran(batch, None)
                self._tell_if_empty()
            return None

    def _wait(self, seconds: float | None) -> None:
        """Wait for work; where a job waits for others, no thread looks again before there are a quarter more."""
        queued = len(self._backlog.queue)
        self._worth_a_look = 0 if seconds is None else queued + max(1, queued // 4)
        self._idle += 1
        self._work.wait(seconds)
        self._idle -= 1

    def _run(self, batch: Batch) -> None:
        """Run a batch, and end the requests that waited for nothing else; what it raises ends all of its requests."""
        results, error = self._attempt(batch.refusal, [queued.job for queued in batch.queued])
        with self._lock:
            self._former.ran(batch, results)
            if results is None:
                ended = self._backlog.take_out(queued.request for queued in batch.queued)
            else:
                answered = zip(batch.queued, results, strict=True)
                ended = self._backlog.take_out(
                    queued.request for queued, result in answered if queued.request.answer(queued.index, result)
                )
        if error is not None:
            self._fail(ended, itertools.repeat(error))
            return
        for request in ended:
            request.succeed(self._execution)
        self._note(ended)

    def _attempt(
        self, refusal: CtxError | None, jobs: Sequence[Job]
    ) -> tuple[list[Result] | None, BaseException | None]:
        """The result of each job, or why there is none: what running them raises must not end the worker.

        It is given no request: the error keeps what this function holds.
        """
        if refusal is not None:
            return None, refusal
        try:
            return self._execution.run_batch(jobs), None
        except BaseException as error:
            return None, error

    def _withdraw(self, request: Request) -> None:
        """Note that a request was cancelled."""
        with self._lock:
            if request in self._backlog.waiting:
                self._backlog.begin(request)
                self._tell_if_empty()

    def _fail(self, requests: Sequence[Request], errors: Iterable[BaseException]) -> None:
        for request, error in zip(requests, errors, strict=False):
            request.fail(error)
        self._note(requests)

    def _note(self, ended: Sequence[Request]) -> None:
        with self._lock:
            self._backlog.ended(ended)
            self._tell_if_empty()

    def _tell_if_empty(self) -> None:
        if self._backlog.empty:
            self._ended.notify_all()

    def _watch_deadlines(self) -> None:
        """End requests at their deadlines."""
        while not self._closed:
            with self._lock:
                now, waiting = time.monotonic(), self._backlog.waiting
                overdue = self._backlog.take_out([request for request in waiting if request.deadline <= now])
                self._next_deadline = min((request.deadline for request in waiting), default=_NEVER)
                if not overdue and not self._closed:
                    self._sooner.wait(None if self._next_deadline == _NEVER else self._next_deadline - now)
            self._fail(overdue, map(_missed, overdue))


def _copied(row: Row) -> Row:
    return Row({name: array.copy() for name, array in row.arrays.items()}, row.length)


def _closed() -> CtxError:
    return CtxError("the runtime is closed", hint="open the bundle again with Runtime.open")


def _missed(request: Request) -> DeadlineError:
    return DeadlineError(
        f"not begun within {request.deadline - request.arrived:g} s",
        hint="give it more time, send less at once, or run more workers or replicas",
    )
