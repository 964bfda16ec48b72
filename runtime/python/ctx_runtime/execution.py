"""How rows run: cut where they are too long, batched, padded, run in their bucket, fused and counted."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from copy import copy
from typing import NamedTuple

import numpy as np

from ctx_runtime.batching import Job, form_batches
from ctx_runtime.dispatch import Dispatcher
from ctx_runtime.errors import TooLongError
from ctx_runtime.fusing import Fuser
from ctx_runtime.manifest import BucketRecord, Manifest
from ctx_runtime.padding import Row, RowLayout
from ctx_runtime.parity import Form
from ctx_runtime.resource_profile import BackendName
from ctx_runtime.results import BucketStats, Dispatch, Result
from ctx_runtime.segmenting import SegmentPlan, find_framing, fuse, plan_segments


class RowPlan(NamedTuple):
    """What is run for a row.

    Attributes:
        segments: how the outputs of several jobs become one; None: the one job is the row.
    """

    row: Row
    segments: SegmentPlan | None
    jobs: list[Job]


class Execution:
    """Runs rows. Every method may be called from several threads at once.

    Args:
        manifest: of the bundle.
        dispatcher: has the sessions.

    Attributes:
        layout: of the bundle's inputs and outputs.
        fuser: runs rows that are longer than every bucket, where the model fuses their segments itself.
        alone: the form of graph that runs a row without padding.
        may_pad: rows of different length may share a batch.
    """

    def __init__(self, manifest: Manifest, dispatcher: Dispatcher) -> None:
        self._manifest, self._dispatcher = manifest, dispatcher
        self.layout = RowLayout(manifest.inputs, manifest.outputs)
        fusion = manifest.fusion
        fuses = fusion is not None and manifest.overflow.policy == "segment"
        self.fuser = Fuser(manifest, fusion, dispatcher, self.layout) if fusion and fuses else None
        self.alone: Form = "masked" if self.layout.mask is None else "unmasked"
        self.may_pad = manifest.padding_invariant and self.layout.mask is not None
        self._longest = manifest.max_length
        self._names = {bucket.max_length: bucket.name for bucket in manifest.buckets}
        self._stats = {name: BucketStats() for name in self._names.values()}
        self._stats_lock = threading.Lock()

    def run_row(self, row: Row) -> Result:
        """The result of one row, a batch of one."""
        if row.length > self._longest:
            return self.run([row])[0]
        bucket, reason = self._dispatcher.choose(row.length)
        return self._run_alone(row, bucket, reason)

    def run(self, rows: Sequence[Row]) -> list[Result]:
        """The result of every row, a batch of one, in order: jobs of all rows are batched together."""
        plans = [self.plan(row) for row in rows]
        results = self._run_jobs([job for plan in plans for job in plan.jobs])
        if len(results) == len(plans):
            return results
        answers = iter(results)
        return [self.finish(plan, [next(answers) for _ in plan.jobs]) for plan in plans]

    def plan(self, row: Row) -> RowPlan:
        """The jobs of a row: itself, its truncated self, or its windows.

        Raises:
            TooLongError: longer than the bundle takes, where its overflow policy is `error`.
            MemoryBudgetError, TimeBudgetError, QualityError: no bucket may run it.
        """
        if row.length <= self._longest:
            bucket, reason = self._dispatcher.choose(row.length)
            return RowPlan(row, None, [Job(row, bucket, False, reason)])
        if self.fuser is not None:
            _, note = self.fuser.plan(row.length)
            return RowPlan(row, None, [Job(row, self._manifest.buckets[-1], True, note)])
        segments, parts, note = self._cut(row)
        jobs = [Job(part, self._dispatcher.choose(part.length).bucket, segments is not None, note) for part in parts]
        return RowPlan(row, segments, jobs)

    def run_batch(self, jobs: Sequence[Job]) -> list[Result]:
        """Run jobs of one bucket together, padded to the longest; the result of each, a batch of one.

        Raises:
            BackendError: no backend can serve the bucket, or the one that does fails.
            MemoryBudgetError: there is no memory left.
        """
        if len(jobs) == 1:
            return [self._run_alone(jobs[0].row, jobs[0].bucket, jobs[0].reason)]
        bucket, rows = jobs[0].bucket, [job.row for job in jobs]
        name, lengths = self._names[bucket.max_length], [row.length for row in rows]
        longest = max(lengths)
        padded = min(lengths) < longest
        outputs, backend, ms = self._run_graph(bucket, name, "masked" if padded else self.alone, rows)
        split = self.layout.unstack(outputs, lengths)
        self._count(name, lengths, longest, ms)
        return [
            Result(split[index], (Dispatch(length, name, backend, longest - length, 1, ms, jobs[index].reason),))
            for index, length in enumerate(lengths)
        ]

    def finish(self, plan: RowPlan, results: Sequence[Result]) -> Result:
        """The result of a row, a batch of one, from those of its jobs."""
        if plan.segments is None:
            return results[0]
        outputs = {
            spec.name: fuse(plan.segments, [window.outputs[spec.name][0] for window in results], spec)[np.newaxis]
            for spec in self._manifest.outputs
        }
        runs = [window.dispatch[0] for window in results]
        ms, padding = sum(run.ms for run in runs), sum(run.padding for run in runs)
        first = runs[0]
        return Result(
            outputs, (Dispatch(plan.row.length, first.bucket, first.backend, padding, len(runs), ms, first.reason),)
        )

    def join(self, rows: Sequence[Result], batched: bool) -> Result:
        """Rows in one batch; without its axis for the one row of inputs that had none."""
        if len(rows) == 1 and batched:
            return rows[0]
        outputs = self.layout.join([row.outputs for row in rows])
        if not batched:
            outputs = {name: array[0] for name, array in outputs.items()}
        return Result(outputs, tuple(row.dispatch[0] for row in rows))

    def overflow(self, length: int, prefix: int, suffix: int) -> tuple[SegmentPlan | None, int, str]:
        """What becomes of a row of `length` tokens: its segments, the length to run, and a note if it is too long.

        Raises:
            TooLongError: longer than the bundle takes, where its overflow policy is `error`.
        """
        longest, overflow = self._longest, self._manifest.overflow
        if length <= longest:
            return None, length, ""
        if overflow.policy == "error":
            raise TooLongError(
                f"{length} tokens are more than the {longest} that the bundle takes",
                hint="shorten the input, or build with the overflow policy `segment`",
            )
        if overflow.policy == "truncate":
            return None, longest, f"truncated: {length - longest} of {length} tokens beyond {longest} were cut off"
        plan = plan_segments(length, window=longest, overlap=overflow.overlap, prefix=prefix, suffix=suffix)
        return plan, longest, f"{length} tokens in {len(plan.segments)} segments of {longest}"

    def stats(self) -> dict[str, BucketStats]:
        """What ran so far, by the bucket's name."""
        with self._stats_lock:
            return {name: copy(stats) for name, stats in self._stats.items()}

    def _cut(self, row: Row) -> tuple[SegmentPlan | None, list[Row], str]:
        """The parts of a row longer than every bucket that are run: its truncated self, or its windows."""
        prefix, suffix = 0, 0
        if self.layout.tokens is not None:
            prefix, suffix = find_framing(row.arrays[self.layout.tokens][0], self._manifest.special_tokens)
        plan, length, note = self.overflow(row.length, prefix, suffix)
        if plan is not None:
            return plan, [self.layout.take(row, segment.indices) for segment in plan.segments], note
        kept = np.concatenate([np.arange(length - suffix), np.arange(row.length - suffix, row.length)])
        return None, [self.layout.take(row, kept)], note

    def _run_alone(self, row: Row, bucket: BucketRecord, reason: str) -> Result:
        """Run a row in a batch of its own: the way of every single input, which is kept short."""
        name, length = self._names[bucket.max_length], row.length
        if self.fuser is not None and length > self._longest:
            return self._run_fused(self.fuser, row)
        outputs, backend, ms = self._run_graph(bucket, name, self.alone, (row,))
        self.layout.check(outputs, 1, length)
        self._count(name, (length,), length, ms)
        return Result(outputs, (Dispatch(length, name, backend, 0, 1, ms, reason),))

    def _run_graph(
        self, bucket: BucketRecord, name: str, form: Form, rows: Sequence[Row]
    ) -> tuple[dict[str, np.ndarray], BackendName, float]:
        """The outputs of `rows` run together, the backend that ran them, and how long it took, in milliseconds."""
        with self._dispatcher.session(bucket, form) as session:
            feeds = self.layout.stack(rows, session.inputs)
            started = time.perf_counter()
            outputs = session.run(feeds, bucket=name)
            return outputs, session.backend, (time.perf_counter() - started) * 1e3

    def _run_jobs(self, jobs: Sequence[Job]) -> list[Result]:
        results: dict[int, Result] = {}
        for batch in form_batches(jobs, may_pad=self.may_pad):
            for index, result in zip(batch, self.run_batch([jobs[index] for index in batch]), strict=True):
                results[index] = result
        return [results[index] for index in range(len(jobs))]

    def _run_fused(self, fuser: Fuser, row: Row) -> Result:
        """Run a row longer than every bucket in segments that the model fuses."""
        result = fuser.run(row)
        run = result.dispatch[0]
        with self._stats_lock:
            stats = self._stats[run.bucket]
            stats.runs += run.segments
            stats.rows += run.segments
            stats.fused += 1
            stats.tokens += run.segments * self._longest
            stats.seconds += run.ms / 1e3
        return result

    def _count(self, bucket: str, lengths: Sequence[int], longest: int, ms: float) -> None:
        tokens = sum(lengths)
        with self._stats_lock:
            stats = self._stats[bucket]
            stats.runs += 1
            stats.rows += len(lengths)
            stats.tokens += tokens
            stats.padding += longest * len(lengths) - tokens
            stats.seconds += ms / 1e3
