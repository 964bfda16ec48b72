"""How many replicas serve some traffic: of each bucket, or of all in one pool, for a rate and a latency target."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from ctx_export.costs import Latency
from ctx_export.queueing import Load, response_ms, simulated_response_ms
from ctx_runtime.errors import InputError
from ctx_runtime.histogram import LengthHistogram
from ctx_runtime.segmenting import plan_segments


@dataclass(frozen=True)
class Target:
    """What is asked for.

    Attributes:
        rate: requests a second, of all lengths together.
        ms: within which `percent` of the requests of each bucket shall end, in milliseconds.
        requests: how many are simulated for each number of replicas that is tried.
    """

    rate: float
    ms: float
    percent: float = 95.0
    requests: int = 20_000
    seed: int = 0

    def __post_init__(self) -> None:
        if not (0 < self.rate < math.inf and 0 < self.ms < math.inf and 0 < self.percent < 100):
            raise InputError(
                f"can't plan for {self.rate:g} requests a second, {self.percent:g} % of them in {self.ms:g} ms",
                hint="the rate and the time are above 0, the percentage is between 0 and 100",
            )
        if self.requests < 1000:
            raise InputError(f"{self.requests} requests say little of a percentile", hint="simulate at least 1,000")


@dataclass(frozen=True)
class Replicas:
    """The replicas that serve one bucket, or all of them.

    Attributes:
        name: of the bucket; `all` for one pool.
        share: of the requests.
        rate: requests a second.
        mean_ms: what a request takes alone.
        replicas: how many are needed; each runs one input at a time.
        busy: share of their time.
        paper_ms, simulated_ms: within which the asked percentage of the requests ends.
    """

    name: str
    share: float
    rate: float
    mean_ms: float
    replicas: int
    busy: float
    paper_ms: float
    simulated_ms: float


@dataclass(frozen=True)
class Capacity:
    """What `target` needs: replicas of each bucket that has traffic, or one pool whose replicas serve every bucket."""

    target: Target
    by_bucket: tuple[Replicas, ...]
    pooled: Replicas

    def to_json(self) -> dict[str, object]:
        """The JSON object of `ctx-export capacity --json`."""
        return {
            "target": asdict(self.target),
            "by_bucket": [asdict(part) for part in self.by_bucket],
            "pooled": asdict(self.pooled),
        }


def plan_capacity(
    traffic: LengthHistogram, latency: Latency, ends: Sequence[int], target: Target, *, overlap: int = 0
) -> Capacity:
    """The fewest replicas with which `target` is met on paper and in simulation.

    Args:
        traffic: the lengths of the requests.
        latency: of a row alone, on one replica.
        ends: the longest length of each bucket; longer requests run in segments, one after the other.
        target: the rate and the time.
        overlap: of segments, in tokens.

    Raises:
        InputError: no replica is fast enough: requests of some bucket take longer than the target alone.
    """
    service_ms = _service_ms(traffic.lengths, latency, ends[-1], overlap)
    bucket = np.minimum(np.searchsorted(np.asarray(ends), traffic.lengths), len(ends) - 1)
    by_bucket = [
        _fewest(f"ctx-{end}", service_ms[bucket == index], traffic.counts[bucket == index], traffic.inputs, target)
        for index, end in enumerate(ends)
        if (bucket == index).any()
    ]
    return Capacity(target, tuple(by_bucket), _fewest("all", service_ms, traffic.counts, traffic.inputs, target))


def _service_ms(lengths: np.ndarray, latency: Latency, longest: int, overlap: int) -> np.ndarray:
    """What a request of each of `lengths` takes alone, in milliseconds."""
    segments = np.array(
        [1 if length <= longest else _segments(int(length), longest, overlap) for length in lengths.tolist()]
    )
    run = latency.fixed_ms + latency.row_ms(np.minimum(lengths, longest))
    service: np.ndarray = segments * run
    return service


def _segments(length: int, longest: int, overlap: int) -> int:
    return len(plan_segments(length, window=longest, overlap=overlap).segments)


def _fewest(name: str, service_ms: np.ndarray, counts: np.ndarray, inputs: int, target: Target) -> Replicas:
    """The fewest replicas for the requests that `counts` says; the simulation has the last word."""
    share = float(counts.sum()) / inputs
    load = Load(target.rate * share, service_ms, counts / counts.sum())
    alone = _percentile(load, target.percent)
    if alone >= target.ms:
        raise InputError(
            f"{target.percent:g} % of the requests of {name} take up to {alone:.3g} ms alone, "
            f"not below {target.ms:g} ms",
            hint="allow more time, give a replica more threads, or cut with smaller buckets",
        )
    replicas = _least_on_paper(load, target)
    while (simulated := _simulated(load, replicas, target)) > target.ms:
        replicas += 1
    paper = response_ms(load, replicas, target.percent)
    return Replicas(name, share, load.rate, load.mean_ms, replicas, load.busy_servers / replicas, paper, simulated)


def _percentile(load: Load, percent: float) -> float:
    """The service time that `percent` of the requests do not exceed, in milliseconds."""
    order = np.argsort(load.service_ms)
    reached = np.searchsorted(np.cumsum(load.share[order]), percent / 100)
    return float(load.service_ms[order[min(int(reached), len(order) - 1)]])


def _simulated(load: Load, replicas: int, target: Target) -> float:
    return simulated_response_ms(load, replicas, target.percent, requests=target.requests, seed=target.seed)


def _least_on_paper(load: Load, target: Target) -> int:
    """The fewest replicas that meet the target on paper, by bisection: more are never slower."""
    low = math.floor(load.busy_servers)
    high = low + 1
    while response_ms(load, high, target.percent) > target.ms:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if response_ms(load, middle, target.percent) > target.ms else (low, middle)
    return high
