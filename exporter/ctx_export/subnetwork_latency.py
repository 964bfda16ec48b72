"""How long the sub-networks of a checkpoint take in ONNX Runtime: one export, a session for each."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir

from ctx_export import graphs, lowering, specialising
from ctx_export.intervals import Interval
from ctx_export.sources.adaptive import AdaptiveSource
from ctx_export.subnetworks import cut
from ctx_models.subnetwork import SubNetwork
from ctx_models.tuning import in_segments
from ctx_runtime import resource_profile
from ctx_runtime.backends.onnxruntime import OrtSession

_REPEATS = 5


class OrtLatency:
    """Milliseconds of one row in ONNX Runtime on the CPU: the median of 5 runs after one more.

    An input in segments is timed as its segments one after another, as the runtime runs them; what joins them is left
    out.

    Args:
        source: the model; the export takes every length up to `longest`.
        longest: the longest input that runs in one piece, in tokens.

    Raises:
        ExportError: the model can't be exported.
    """

    def __init__(self, source: AdaptiveSource, longest: int) -> None:
        self._source, self._lengths = source, Interval(1, longest)
        self._mask = next((spec.name for spec in source.inputs if spec.role == "mask"), None)
        with in_segments(source.module, longest):
            self._whole = graphs.export_graph(source, max_length=longest)

    def __call__(self, subnetwork: SubNetwork, length: int, segment: int) -> float:
        """See `ctx_models.tuning.Latency`."""
        arrays = self._source.example(1, [segment])
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            ir.save(self._cut(subnetwork), path, external_data="model.data")
            with contextlib.closing(OrtSession(path)) as session:
                feeds = {name: arrays[name] for name in session.inputs}
                return _median_ms(lambda: session.run(feeds, bucket=str(subnetwork))) * self._segments(length, segment)

    def _cut(self, subnetwork: SubNetwork) -> ir.Model:
        """The graph that a bucket of this sub-network runs for an unpadded row."""
        part = self._source.resolve(resource_profile.SubNetwork.model_validate(subnetwork.to_json()))
        network = cut(self._whole, part, rotation=self._source.rotation(part))
        bounded = specialising.specialise(network, length=self._lengths, all_ones=self._mask)
        return lowering.lower_for_onnxruntime(bounded)

    def _segments(self, length: int, segment: int) -> int:
        own = self._source.module.config.segment
        if own is None or length <= segment:
            return 1
        return 1 + math.ceil((length - segment) / dataclasses.replace(own, length=segment).step)


def _median_ms(run: Callable[[], object]) -> float:
    seconds = []
    for _ in range(_REPEATS + 1):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:]) * 1000
