"""How long the sub-networks of a checkpoint take in ONNX Runtime: one export, a session for each."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx_ir as ir

from ctx_export import graphs, lowering, specialising, subnetworks
from ctx_export.intervals import Interval
from ctx_export.sources.adaptive import AdaptiveSource
from ctx_models.subnetwork import SubNetwork
from ctx_models.tuning import Latency, in_segments
from ctx_runtime import resource_profile
from ctx_runtime.backends.onnxruntime import OrtSession

_REPEATS = 5


class CutExport:
    """A checkpoint exported once, and sessions of its sub-networks.

    Args:
        source: the model.
        longest: the longest input that runs in one piece, in tokens; a segment as long as that where there are any.

    Raises:
        ExportError: the model can't be exported.
    """

    def __init__(self, source: AdaptiveSource, longest: int) -> None:
        self.source, self._lengths = source, Interval(1, longest)
        with in_segments(source.module, longest):
            self._whole = graphs.export_graph(source, max_length=longest)

    @contextlib.contextmanager
    def open(self, subnetwork: SubNetwork, *, threads: int = 0) -> Iterator[OrtSession]:
        """A session of the graph that a bucket of this sub-network runs for rows without padding."""
        part = self.source.resolve(resource_profile.SubNetwork.model_validate(subnetwork.to_json()))
        network = subnetworks.cut(self._whole, part, rotation=self.source.rotation(part))
        mask = next((spec.name for spec in self.source.inputs if spec.role == "mask"), None)
        bounded = specialising.specialise(network, length=self._lengths, all_ones=mask)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            ir.save(lowering.lower_for_onnxruntime(bounded), path, external_data="model.data")
            with contextlib.closing(OrtSession(path, threads=threads)) as session:
                yield session


def ort_latency(export: CutExport) -> Latency:
    """Milliseconds of one row in ONNX Runtime on the CPU: the median of 5 runs after one more.

    An input in segments is timed as its segments one after another, as the runtime runs them; what joins them is left
    out.
    """

    def measure(subnetwork: SubNetwork, length: int, segment: int) -> float:
        arrays = export.source.example(1, [segment])
        with export.open(subnetwork) as session:
            feeds = {name: arrays[name] for name in session.inputs}
            milliseconds = _median_ms(lambda: session.run(feeds, bucket=str(subnetwork)))
        return milliseconds * _segments(export.source, length, segment)

    return measure


def _segments(source: AdaptiveSource, length: int, segment: int) -> int:
    own = source.module.config.segment
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
