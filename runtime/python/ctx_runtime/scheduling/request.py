"""A submitted request, which is its own future, and the jobs that it waits for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from ctx_runtime.batching import Job
from ctx_runtime.execution import Execution, RowPlan
from ctx_runtime.results import Result

_LOG = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class QueuedJob:
    """A job of a request; `index` is its place among them."""

    job: Job
    request: Request
    index: int


class Request(Future[Result]):
    """What `submit` returns: the future result of one input.

    Args:
        plans: the jobs of each of its rows.
        batched: the input came with a batch axis.
        arrived: in seconds of the monotonic clock.
        deadline: when it is given up if it has not begun, on the same clock.
        withdraw: told when it was cancelled.
    """

    def __init__(
        self,
        plans: Sequence[RowPlan],
        *,
        batched: bool,
        arrived: float,
        deadline: float,
        withdraw: Callable[[Request], None],
    ) -> None:
        super().__init__()
        self.arrived, self.deadline = arrived, deadline
        self._plans, self._batched, self._withdraw = plans, batched, withdraw
        jobs = [job for plan in plans for job in plan.jobs]
        self.jobs = [QueuedJob(job, self, index) for index, job in enumerate(jobs)]
        self._results: dict[int, Result] = {}

    def cancel(self) -> bool:
        """Give the request up, if it has not begun; whether it is cancelled."""
        cancelled = super().cancel()
        if cancelled:
            self._withdraw(self)
        return cancelled

    def answer(self, index: int, result: Result) -> bool:
        """Take the result of job `index`; whether it was the last one. Not for several threads at once."""
        self._results[index] = result
        return len(self._results) == len(self.jobs)

    def succeed(self, execution: Execution) -> None:
        """End with the results of all jobs, joined as `Runtime.run` does."""
        answers = iter([self._results[index] for index in range(len(self.jobs))])
        try:
            rows = [execution.finish(plan, [next(answers) for _ in plan.jobs]) for plan in self._plans]
            result = execution.join(rows, self._batched)
        except BaseException as error:  # the future tells it; the worker lives on
            self.fail(error)
        else:
            self.release()
            self._tell(lambda: self.set_result(result))

    def fail(self, error: BaseException) -> None:
        """End with an error."""
        self.release()
        self._tell(lambda: self.set_exception(error))

    def release(self) -> None:
        """Let go of inputs and intermediate results: who keeps the future keeps its outcome alone."""
        self._plans, self.jobs = (), []
        self._results.clear()

    def _tell(self, end: Callable[[], None]) -> None:
        """End the future, which calls the caller's callbacks: what they raise must not end who runs them."""
        try:
            end()
        except BaseException:
            _LOG.exception("a callback of a submitted request failed")
