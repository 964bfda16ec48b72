"""Rows longer than every bucket through the graphs of a model that fuses segments itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ctx_runtime.backends.opening import FusionGraph
from ctx_runtime.dispatch import Dispatcher
from ctx_runtime.manifest import FusionRecord, Manifest, OutputSpec
from ctx_runtime.padding import Row, RowLayout
from ctx_runtime.resource_profile import BackendName
from ctx_runtime.results import Dispatch, Result
from ctx_runtime.segmenting import SegmentPlan, fuse, plan_segments

Run = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class FusionGraphs:
    """The graphs of a `FusionRecord`, each as a function of feeds by name."""

    segment: Run
    fuse: Run
    finish: Run | None


def run_fused(
    plan: SegmentPlan,
    windows: Sequence[Mapping[str, np.ndarray]],
    graphs: FusionGraphs,
    outputs: Sequence[OutputSpec],
) -> dict[str, np.ndarray]:
    """The outputs of one row, a batch of one: `(1, length, …)`, or `(1, …)` without a length.

    Segments run one by one, which is faster on a CPU and takes the memory of one.

    Args:
        plan: the windows of the row.
        windows: the inputs of each, `(1, window, …)` by name.
        graphs: what to run them through.
        outputs: what the bundle gives.
    """
    states = [graphs.segment(window) for window in windows]
    fused = graphs.fuse({"summaries": np.stack([state["summary"] for state in states], axis=1)})
    answers = {spec.name: fused[spec.name] for spec in outputs if spec.length_axis is None}
    if graphs.finish is None:
        return answers
    finished = [
        graphs.finish({"hidden": state["hidden"], "context": fused["contexts"][:, index]})
        for index, state in enumerate(states)
    ]
    for spec in outputs:
        if spec.length_axis is not None:
            answers[spec.name] = fuse(plan, [part[spec.name][0] for part in finished], spec)[np.newaxis]
    return answers


class Fuser:
    """Runs rows through the fusion of a bundle.

    Args:
        manifest: of the bundle.
        fusion: its fusion.
        dispatcher: has the sessions.
        layout: of the bundle's inputs.
    """

    def __init__(self, manifest: Manifest, fusion: FusionRecord, dispatcher: Dispatcher, layout: RowLayout) -> None:
        self._manifest, self._fusion = manifest, fusion
        self._dispatcher, self._layout = dispatcher, layout
        self._longest = manifest.buckets[-1]

    def plan(self, length: int) -> tuple[SegmentPlan, str]:
        """The windows of a row of `length` tokens, and a note that says so.

        Raises:
            MemoryBudgetError, TimeBudgetError, QualityError: the longest bucket may not run it.
        """
        self._dispatcher.chooser.check_segments(length)
        plan = plan_segments(
            length,
            window=self._longest.max_length,
            overlap=self._manifest.overflow.overlap,
            prefix=self._fusion.prefix,
            suffix=self._fusion.suffix,
        )
        count = len(plan.segments)
        return plan, f"{length} tokens in {count} segments of {self._longest.max_length}, fused by the model"

    def run(self, row: Row) -> Result:
        """The result of a row longer than every bucket, a batch of one.

        Raises:
            MemoryBudgetError, TimeBudgetError, QualityError: the longest bucket may not run it.
            BackendError: no backend can serve the graphs.
        """
        plan, note = self.plan(row.length)
        windows = [self._layout.take(row, segment.indices).arrays for segment in plan.segments]
        finish = None if self._fusion.finish is None else self._graph("finish")
        graphs = FusionGraphs(self._graph("segment"), self._graph("fuse"), finish)
        started = time.perf_counter()
        outputs = run_fused(plan, windows, graphs, self._manifest.outputs)
        ms = (time.perf_counter() - started) * 1e3
        name, count = self._longest.name, len(windows)
        return Result(outputs, (Dispatch(row.length, name, self.backend(), 0, count, ms, note),))

    def backend(self) -> BackendName:
        """What runs the segments. Opens the session to know."""
        with self._dispatcher.session(self._longest, "segment") as session:
            return session.backend

    def _graph(self, form: FusionGraph) -> Run:
        def run(arrays: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
            with self._dispatcher.session(self._longest, form) as session:
                feeds = {name: arrays[name] for name in session.inputs}
                return session.run(feeds, bucket=self._longest.name)

        return run
