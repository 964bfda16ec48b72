"""Runs the graphs of a bundle's folder against PyTorch."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ctx_export import parity
from ctx_export.parity import BucketProof
from ctx_export.sources import Source
from ctx_runtime.backends.onnxruntime import OrtSession
from ctx_runtime.fusing import FusionGraphs, run_fused
from ctx_runtime.manifest import BucketRecord, FusionRecord
from ctx_runtime.parity import Form
from ctx_runtime.segmenting import plan_segments


def prove_bucket(source: Source, record: BucketRecord, root: Path) -> BucketProof:
    """Run the graphs of one bucket, as they stand in the bundle at `root`, against its sub-network in PyTorch."""
    paths: dict[Form, str | None] = {"masked": record.graph, "unmasked": record.unmasked_graph}
    with contextlib.ExitStack() as stack:
        runs: dict[Form, parity.Run] = {
            form: _opened(stack, root / path, record) for form, path in paths.items() if path is not None
        }
        return parity.prove_bucket(
            record,
            inputs=source.inputs,
            outputs=source.outputs,
            tolerance=record.tolerance,
            example=lambda lengths: source.example(len(lengths), lengths),
            reference=functools.partial(source.run, part=record.subnetwork),
            runs=runs,
        )


def prove_fusion(
    source: Source, fusion: FusionRecord, longest: BucketRecord, root: Path, *, overlap: int
) -> BucketProof:
    """Run rows of several segments of the `longest` bucket through the graphs of the fusion, against PyTorch."""
    with contextlib.ExitStack() as stack:
        segment, fuse = (_opened(stack, root / path, longest) for path in (fusion.segment, fusion.fuse))
        finish = None if fusion.finish is None else _opened(stack, root / fusion.finish, longest)
        graphs = FusionGraphs(segment, fuse, finish)

        def run(arrays: parity.Arrays) -> dict[str, np.ndarray]:
            return _run_row(source, arrays, fusion, longest.max_length, overlap, graphs)

        return parity.prove_fused(
            longest.max_length,
            outputs=source.outputs,
            tolerance=longest.tolerance,
            example=lambda length: source.example(1, [length]),
            reference=functools.partial(source.run, part=longest.subnetwork),
            run=run,
        )


def _run_row(
    source: Source, arrays: parity.Arrays, fusion: FusionRecord, window: int, overlap: int, graphs: FusionGraphs
) -> dict[str, np.ndarray]:
    """One row, `(1, length, …)` by input, in segments of `window` tokens."""
    length = arrays[source.inputs[0].name].shape[1]
    plan = plan_segments(length, window=window, overlap=overlap, prefix=fusion.prefix, suffix=fusion.suffix)
    windows = [
        {spec.name: arrays[spec.name][:, segment.indices] for spec in source.inputs if spec.role != "mask"}
        for segment in plan.segments
    ]
    return run_fused(plan, windows, graphs, source.outputs)


def _opened(stack: contextlib.ExitStack, path: Path, record: BucketRecord) -> parity.Run:
    """The graph at `path` as a function of arrays, of which it takes its own inputs."""
    session = stack.enter_context(contextlib.closing(OrtSession(path, threads=record.threads)))

    def run(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return session.run({name: arrays[name] for name in session.inputs}, bucket=record.name)

    return run
