"""Requests from their acceptance to their end: which wait, which run, and how the others ended."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ctx_runtime.errors import DeadlineError
from ctx_runtime.results import RequestStats
from ctx_runtime.scheduling.queue import JobQueue
from ctx_runtime.scheduling.request import Request


class Backlog:
    """Not for several threads at once; never calls a callback of a request.

    A request waits, runs from when its first job does, and is taken out by one who ends it. It is in one of `waiting`,
    `_running` and `_ending`, or has ended.

    Attributes:
        waiting: requests that have not begun, oldest first.
        queue: jobs of requests that wait or run.
    """

    def __init__(self) -> None:
        self.waiting: dict[Request, None] = {}
        self._running: set[Request] = set()
        self._ending: set[Request] = set()
        self.queue = JobQueue()
        self._stats = RequestStats()

    @property
    def empty(self) -> bool:
        """Whether every request has ended."""
        return not (self.waiting or self._running or self._ending)

    def stats(self) -> RequestStats:
        """How many requests there are and were."""
        running = len(self._running) + len(self._ending)
        return replace(self._stats, queued=len(self.waiting), running=running)

    def accept(self, request: Request) -> None:
        """Let a request wait."""
        for queued in request.jobs:
            self.queue.add(queued)
        self.waiting[request] = None
        self._stats.submitted += 1

    def refuse(self) -> None:
        """Count a request that is not accepted."""
        self._stats.refused += 1

    def begin(self, request: Request) -> bool:
        """Whether a request runs: where it waited, it begins, and can't be cancelled any more."""
        if request not in self.waiting:
            return request in self._running
        del self.waiting[request]
        if request.set_running_or_notify_cancel():
            self._running.add(request)
            return True
        self._drop_jobs(request)
        request.release()
        self._stats.cancelled += 1
        return False

    def take_out(self, requests: Iterable[Request]) -> list[Request]:
        """Those of `requests` that no one else has taken out: the caller ends them and calls `ended`.

        One that waited begins first; one that was cancelled is not among them.
        """
        taken = []
        for request in requests:
            if self.begin(request):
                self._running.remove(request)
                self._ending.add(request)
                self._drop_jobs(request)
                taken.append(request)
        return taken

    def ended(self, requests: Sequence[Request]) -> None:
        """Count requests that were taken out and have a result or an error now."""
        for request in requests:
            self._ending.discard(request)
            error = request.exception()
            if error is None:
                self._stats.finished += 1
            elif isinstance(error, DeadlineError):
                self._stats.expired += 1
            else:
                self._stats.failed += 1

    def _drop_jobs(self, request: Request) -> None:
        for queued in request.jobs:
            self.queue.remove(queued)
