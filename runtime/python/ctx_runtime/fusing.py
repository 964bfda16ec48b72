"""Rows longer than every bucket through the graphs of a model that fuses segments itself. Pure numpy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ctx_runtime.manifest import OutputSpec
from ctx_runtime.segmenting import SegmentPlan, fuse

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
