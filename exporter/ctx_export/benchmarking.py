"""Measures a bundle on this machine: latency by length, throughput of real lengths, opening, memory.

The peer is a bare ONNX Runtime session over the same graph with the same options, run in turns with the runtime.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime as ort

from ctx_export.bench_report import BenchReport, LatencyRow, Opening, Sizes, Throughput
from ctx_export.reports import Progress
from ctx_runtime import Runtime, __version__
from ctx_runtime.backends.onnxruntime import PROVIDERS, session_options
from ctx_runtime.bucket import find_bucket
from ctx_runtime.bundle import Bundle
from ctx_runtime.errors import InputError
from ctx_runtime.golden import read_golden
from ctx_runtime.histogram import LengthHistogram
from ctx_runtime.manifest import BucketRecord

Feeds = dict[str, np.ndarray]

_MIN_ROUNDS, _MAX_ROUNDS, _TRAFFIC_ROUNDS = 10, 500, 3


def bench(
    bundle: Bundle,
    *,
    lengths: Sequence[int] = (),
    seconds: float = 2.0,
    traffic: LengthHistogram | None = None,
    inputs: int = 200,
    on_progress: Progress | None = None,
) -> BenchReport:
    """Measure a bundle.

    Args:
        bundle: an opened bundle.
        lengths: in tokens; by default powers of two from 8, and the end of every bucket.
        seconds: how long each length is measured, at least 10 rounds.
        traffic: lengths of real inputs, for the throughput.
        inputs: how many of them are drawn.
        on_progress: told `("bench", done, total)`.

    Raises:
        InputError: the bundle generates text, has no golden vectors to take inputs from, or a length is beyond its
            buckets.
        BackendError: a bucket can't run here.
    """
    manifest = bundle.manifest
    if manifest.decoder is not None:
        raise InputError(f"{manifest.name} generates text", hint="bench measures models that take an input at once")
    chosen = sorted(set(lengths)) or _usual_lengths(manifest.buckets)
    if chosen[0] < 1 or chosen[-1] > manifest.max_length:
        raise InputError(f"a length is not in 1..{manifest.max_length}, what the buckets hold")
    sampler = InputSampler(bundle)
    rows: list[LatencyRow] = []
    with Runtime.open(bundle) as runtime:
        for done, length in enumerate(chosen):
            if on_progress is not None:
                on_progress("bench", done, len(chosen) + 2)
            rows.append(_latency(runtime, sampler, length, seconds))
        throughput = None if traffic is None else _throughput(runtime, sampler, traffic, inputs)
    if on_progress is not None:
        on_progress("bench", len(chosen) + 1, len(chosen) + 2)
    return BenchReport(
        bundle=manifest.name,
        processor=_processor(),
        versions={"ctx-export": __version__, "onnxruntime": ort.__version__, "python": platform.python_version()},
        threads=manifest.buckets[-1].threads or os.cpu_count() or 1,
        latency=tuple(rows),
        throughput=throughput,
        opening=_opening(bundle, sampler),
        sizes=_sizes(bundle),
    )


class InputSampler:
    """Inputs of any length, made of the golden inputs of a bundle's largest bucket, repeated as often as needed.

    Raises:
        InputError: the bundle has none.
    """

    def __init__(self, bundle: Bundle) -> None:
        largest = bundle.manifest.buckets[-1]
        if largest.golden is None:
            raise InputError(
                f"{bundle.manifest.name} carries no golden vectors to take inputs from", hint="build the bundle again"
            )
        case = read_golden(bundle.path(largest.golden), bundle.manifest)[0]
        self._specs = [spec for spec in bundle.manifest.inputs if spec.role != "mask"]
        self._arrays = {spec.name: case.inputs[spec.name][:1] for spec in self._specs}

    def feeds(self, length: int) -> Feeds:
        """One row of `length` tokens without a mask: arrays `(1, length, …)`."""
        made = {}
        for spec in self._specs:
            array = self._arrays[spec.name]
            if spec.length_axis is not None:
                array = np.take(array, np.arange(length) % array.shape[spec.length_axis], axis=spec.length_axis)
            made[spec.name] = array
        return made


class BareSessions:
    """Bare ONNX Runtime sessions over a bundle's graphs for single rows, each opened on first use."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._sessions: dict[str, ort.InferenceSession] = {}

    def serves(self, bucket: BucketRecord) -> bool:
        """Whether the first backend of `bucket` is an execution provider that this build of ONNX Runtime has."""
        return PROVIDERS.get(bucket.backends[0]) in ort.get_available_providers()

    def run(self, bucket: BucketRecord, feeds: Feeds) -> list[np.ndarray]:
        """All outputs of one row through the graph of `bucket`."""
        graph = bucket.unmasked_graph or bucket.graph
        session = self._sessions.get(graph)
        if session is None:
            path, provider = str(self._bundle.path(graph)), PROVIDERS[bucket.backends[0]]
            session = ort.InferenceSession(path, session_options(bucket.threads), providers=[provider])
            self._sessions[graph] = session
        outputs: list[np.ndarray] = session.run(None, feeds)
        return outputs


def _usual_lengths(buckets: Sequence[BucketRecord]) -> list[int]:
    longest = buckets[-1].max_length
    doublings = {2**power for power in range(3, longest.bit_length()) if 2**power <= longest}
    return sorted(doublings | {bucket.max_length for bucket in buckets})


def _latency(runtime: Runtime, sampler: InputSampler, length: int, seconds: float) -> LatencyRow:
    bucket = runtime.run(sampler.feeds(length)).dispatch[0].bucket
    record = next(record for record in runtime.bundle.manifest.buckets if record.name == bucket)
    feeds, bare = sampler.feeds(length), BareSessions(runtime.bundle)
    contenders: dict[str, Callable[[], object]] = {"runtime": lambda: runtime.run(feeds)}
    if bare.serves(record):
        contenders["bare"] = lambda: bare.run(record, feeds)
    measured = _interleave(contenders, seconds, _MIN_ROUNDS)
    p50, p95, p99 = (float(value) * 1e3 for value in np.percentile(measured["runtime"], [50, 95, 99]))
    peer = float(np.median(measured["bare"])) * 1e3 if "bare" in measured else None
    rounds = len(measured["runtime"])
    return LatencyRow(length=length, bucket=bucket, rounds=rounds, p50_ms=p50, p95_ms=p95, p99_ms=p99, bare_p50_ms=peer)


def _interleave(contenders: Mapping[str, Callable[[], object]], seconds: float, least: int) -> dict[str, list[float]]:
    """Seconds of each run: each contender runs once a round, in an order that rotates, after one run to warm up.

    Rounds go on for `seconds`, but there are at least `least`.
    """
    names = list(contenders)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        contenders[name]()
    until = time.perf_counter() + seconds
    for turn in range(_MAX_ROUNDS):
        if turn >= least and time.perf_counter() > until:
            break
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            started = time.perf_counter()
            contenders[name]()
            taken[name].append(time.perf_counter() - started)
    return taken


def _throughput(runtime: Runtime, sampler: InputSampler, traffic: LengthHistogram, inputs: int) -> Throughput:
    """Useful tokens a second of `inputs` lengths drawn from those that the buckets hold."""
    buckets = runtime.bundle.manifest.buckets
    held = traffic.lengths <= runtime.bundle.manifest.max_length
    if not held.any():
        raise InputError("every input of the traffic is longer than the buckets", hint="give traffic that they hold")
    share = traffic.counts[held] / traffic.counts[held].sum()
    lengths = np.random.default_rng(0).choice(traffic.lengths[held], inputs, p=share).tolist()
    rows, bare = [sampler.feeds(length) for length in lengths], BareSessions(runtime.bundle)
    results = runtime.run(rows)
    padding = sum(dispatch.padding for result in results for dispatch in result.dispatch)
    ways: dict[str, Callable[[], object]] = {
        "together": lambda: runtime.run(rows),
        "one_by_one": lambda: [runtime.run(row) for row in rows],
    }
    if all(bare.serves(bucket) for bucket in buckets):
        chosen = [buckets[find_bucket(buckets, length) or 0] for length in lengths]
        ways["bare"] = lambda: [bare.run(bucket, row) for bucket, row in zip(chosen, rows, strict=True)]
    tokens = sum(lengths)
    measured = _interleave(ways, 0.0, _TRAFFIC_ROUNDS)
    rates = {name: tokens / float(np.median(taken)) for name, taken in measured.items()}
    return Throughput(
        inputs=inputs, tokens=tokens, together=rates["together"], one_by_one=rates["one_by_one"],
        bare=rates.get("bare"), padding_share=padding / (padding + tokens),
    )  # fmt: skip


def _opening(bundle: Bundle, sampler: InputSampler) -> Opening:
    """Open and run the bundle in fresh processes, one for the runtime and one for bare sessions."""
    rows = [sampler.feeds(bucket.max_length) for bucket in bundle.manifest.buckets]
    verify_ms, first_runs_ms, pss = _in_fresh_process(_open_runtime, bundle.root, rows)
    bare_ms, bare_pss = None, None
    if all(BareSessions(bundle).serves(bucket) for bucket in bundle.manifest.buckets):
        _, bare_ms, bare_pss = _in_fresh_process(_open_bare, bundle.root, rows)
    return Opening(
        verify_ms=verify_ms, first_runs_ms=first_runs_ms, pss_bytes=pss, bare_open_ms=bare_ms, bare_pss_bytes=bare_pss
    )


_Opened = tuple[float, float, int | None]
"""Milliseconds to verify the bundle, milliseconds of the first runs, and PSS that both added, in bytes."""


def _in_fresh_process(task: Callable[[Path, list[Feeds]], _Opened], root: Path, rows: list[Feeds]) -> _Opened:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(task, root, rows).result()


def _open_runtime(root: Path, rows: list[Feeds]) -> _Opened:
    before, started = _pss(), time.perf_counter()
    with Runtime.open(root) as runtime:
        verified = time.perf_counter()
        for row in rows:
            runtime.run(row)
        return (verified - started) * 1e3, (time.perf_counter() - verified) * 1e3, _added(before)


def _open_bare(root: Path, rows: list[Feeds]) -> _Opened:
    before, started = _pss(), time.perf_counter()
    bundle = Bundle.open(root)
    verified, bare = time.perf_counter(), BareSessions(bundle)
    for row, bucket in zip(rows, bundle.manifest.buckets, strict=True):
        bare.run(bucket, row)
    return (verified - started) * 1e3, (time.perf_counter() - verified) * 1e3, _added(before)


def _pss() -> int | None:
    """Proportional memory of this process in bytes; None where the system does not tell."""
    try:
        text = Path("/proc/self/smaps_rollup").read_text(encoding="utf-8")
    except OSError:
        return None
    return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:"))


def _added(before: int | None) -> int | None:
    after = _pss()
    return None if before is None or after is None else max(0, after - before)


def _sizes(bundle: Bundle) -> Sizes:
    manifest = bundle.manifest
    weights = sum(file.bytes for file in manifest.files if file.path == manifest.weights)
    own = {path for bucket in manifest.buckets for path in (bucket.graph, bucket.unmasked_graph, bucket.golden)}
    total = sum(file.bytes for file in manifest.files if file.path in own)
    return Sizes(
        weights_bytes=weights,
        bucket_bytes=total // len(manifest.buckets),
        activation=manifest.buckets[-1].activation,
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
