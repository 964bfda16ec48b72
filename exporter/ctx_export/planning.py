"""Plans buckets for traffic: how many, where they end, and how sure that is. Pure numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from ctx_export.boundaries import Boundaries, MemoryLimit, best_boundaries
from ctx_export.costs import AnalyticLatency, CostModel, TrafficCost
from ctx_export.reports import Progress
from ctx_runtime.errors import InputError
from ctx_runtime.histogram import LengthHistogram
from ctx_runtime.segmenting import plan_segments


@dataclass(frozen=True)
class Budget:
    """What the buckets may take together; None: without limit.

    Attributes:
        buckets: the most buckets.
        memory: of the weights and one run in every bucket.
        build_seconds, disk_bytes: of the whole bundle.
        shared_seconds, bucket_seconds: what a build takes before its first bucket, and what each bucket adds.
        shared_bytes, bucket_bytes: what the weights take on disk, and what each bucket adds.
    """

    buckets: int = 8
    memory: MemoryLimit | None = None
    build_seconds: float | None = None
    disk_bytes: int | None = None
    shared_seconds: float = 0.0
    bucket_seconds: float = 0.0
    shared_bytes: int = 0
    bucket_bytes: int = 0

    def most_buckets(self) -> int:
        """The most buckets that the number, build time and disk allow.

        Raises:
            InputError: they do not allow one.
        """
        most = self.buckets
        for what, limit, shared, each in (
            ("seconds of build time", self.build_seconds, self.shared_seconds, self.bucket_seconds),
            ("bytes of disk", self.disk_bytes, self.shared_bytes, self.bucket_bytes),
        ):
            if limit is None:
                continue
            if shared + each > limit:
                raise InputError(f"one bucket takes {shared + each:g} {what}, more than the {limit:g} of the budget")
            most = min(most, int((limit - shared) / each)) if each else most
        if most < 1:
            raise InputError(f"expected at least 1 bucket, got {most}")
        return most


@dataclass(frozen=True)
class PlannedBucket:
    """A bucket of a plan; lengths in tokens.

    Attributes:
        opt_length: half of the bucket's time is spent on runs up to this length.
        share: of the inputs.
    """

    min_length: int
    max_length: int
    opt_length: int
    share: float


@dataclass(frozen=True)
class Stability:
    """What plans of resampled traffic look like: as many inputs, drawn with replacement.

    Attributes:
        resamples: how many were drawn.
        ends: for each bucket's end, the range that holds nine of ten resampled ends, in tokens.
        same_count: the share of resamples for which as many buckets are recommended.
        regret_mean, regret_p95: by how much the plan costs more on a resample than the resample's own best with as many
            buckets; a share.
    """

    resamples: int
    ends: tuple[tuple[int, int], ...]
    same_count: float
    regret_mean: float
    regret_p95: float


@dataclass(frozen=True)
class Plan:
    """Buckets for traffic, and what others would cost.

    Attributes:
        cost: the traffic and its cost model.
        curve: the cheapest boundaries with at most 1, 2, … buckets, one beyond what the budget allows.
        count: the number of buckets that is recommended.
        powers_of_two: the cheapest ends among powers of two and the longest length, for 1, 2, … buckets.
        fixed_steps: equal steps up to the longest length, for 1, 2, … buckets.
        least_ms: all inputs without any padding.
        stability: None where it was not asked for.
    """

    cost: TrafficCost
    curve: tuple[Boundaries, ...]
    count: int
    powers_of_two: tuple[Boundaries, ...]
    fixed_steps: tuple[Boundaries, ...]
    least_ms: float
    stability: Stability | None

    @property
    def chosen(self) -> Boundaries:
        """The recommended boundaries."""
        return self.curve[self.count - 1]

    @property
    def inputs(self) -> int:
        """The inputs, or their segments, that were planned for."""
        return int(self.cost.counts.sum())

    def gain(self, count: int) -> float | None:
        """The share of the cost of `count` buckets that one more would save; None if there can't be one more."""
        if count >= len(self.curve):
            return None
        return 1 - self.curve[count].total_ms / self.curve[count - 1].total_ms

    def padding_share(self) -> float:
        """The share of padding among the tokens that run under the chosen boundaries."""
        one_each = replace(self.cost.model, latency=AnalyticLatency(0.0, 1.0, 0.0))
        tokens = replace(self.cost, model=one_each).total_ms(self.chosen.ends)
        return max(0.0, 1 - float(self.cost.counts @ self.cost.lengths) / tokens)

    def buckets(self) -> tuple[PlannedBucket, ...]:
        """The chosen buckets."""
        cost, model = self.cost, self.cost.model
        stops = [int(stop) for stop in np.searchsorted(cost.lengths, self.chosen.ends) + 1]
        starts = [0, *stops[:-1]]
        buckets = []
        for start, stop, low in zip(starts, stops, [0, *self.chosen.ends[:-1]], strict=True):
            lengths, end = cost.lengths[start:stop], int(cost.lengths[stop - 1])
            time = cost.run_lengths(start, stop) * (model.call_ms + model.latency.row_ms(lengths))
            middle = int(np.searchsorted(np.cumsum(time), time.sum() / 2))
            share = float(cost.counts[start:stop].sum()) / self.inputs
            buckets.append(PlannedBucket(low + 1, end, int(lengths[middle]), share))
        return tuple(buckets)

    def to_json(self) -> dict[str, object]:
        """The object that `ctx-export plan --json` prints; milliseconds are per input."""
        model = self.cost.model
        stability = None if self.stability is None else asdict(self.stability)
        return {
            "inputs": self.inputs,
            "tokens": int(self.cost.counts @ self.cost.lengths),
            "padding_rule": model.rule,
            "batch": model.batch,
            "latency": asdict(model.latency),
            "buckets": [asdict(bucket) for bucket in self.buckets()],
            "ms": self.chosen.total_ms / self.inputs,
            "least_ms": self.least_ms / self.inputs,
            "padding_share": self.padding_share(),
            "one_more_saves": self.gain(self.count),
            "curve": self._curve_json(self.curve),
            "powers_of_two": self._curve_json(self.powers_of_two),
            "fixed_steps": self._curve_json(self.fixed_steps),
            "stability": stability,
        }

    def _curve_json(self, curve: Sequence[Boundaries]) -> list[dict[str, object]]:
        return [{"ends": list(plan.ends), "ms": plan.total_ms / self.inputs} for plan in curve]


def plan_buckets(
    histogram: LengthHistogram,
    model: CostModel,
    budget: Budget,
    *,
    max_length: int | None = None,
    min_gain: float = 0.02,
    resamples: int = 0,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> Plan:
    """The cheapest buckets for traffic, as many as pay.

    Args:
        histogram: the traffic; inputs longer than `max_length` must have been cut into segments (`cut_long`).
        model: what an input costs.
        budget: what the buckets may take.
        max_length: where the last bucket ends; by default at the longest input.
        min_gain: the share of the cost that each further bucket must save, on average, to be recommended.
        resamples: how many times traffic is drawn anew to see how stable the plan is.
        seed: of these draws.
        on_progress: told `("stability", done, total)`.

    Raises:
        InputError: the budget does not allow one bucket, or an input is longer than `max_length`.
    """
    longest = histogram.longest if max_length is None else max_length
    if longest < histogram.longest:
        raise InputError(
            f"an input of {histogram.longest} tokens is longer than {longest}", hint="cut it into segments"
        )
    most = budget.most_buckets()
    cost = TrafficCost.of(histogram, model, ends=(longest,))
    curve = best_boundaries(cost, most + 1, memory=budget.memory)
    count = recommend(curve[:most], min_gain)
    powers = [2**power for power in range(longest.bit_length()) if 2**power < longest]
    peers = TrafficCost.of(histogram, model, ends=(longest, *powers))
    stability = None
    if resamples:
        stability = _stability(cost, curve[count - 1], budget, min_gain, resamples, seed, on_progress)
    return Plan(
        cost=cost,
        curve=curve,
        count=count,
        powers_of_two=best_boundaries(peers, len(curve), allowed=[*powers, longest]),
        fixed_steps=tuple(_fixed_steps(histogram, model, longest, steps) for steps in range(1, len(curve) + 1)),
        least_ms=float(cost.counts @ (model.call_ms + model.latency.row_ms(cost.lengths))),
        stability=stability,
    )


def recommend(curve: Sequence[Boundaries], min_gain: float) -> int:
    """The fewest buckets after which no number of further ones saves `min_gain` of the cost for each of them."""
    for count, plan in enumerate(curve, 1):
        further = enumerate(curve[count:], 1)
        if all(more.total_ms > plan.total_ms * (1 - min_gain * steps) for steps, more in further):
            return count
    return len(curve)


def cut_long(histogram: LengthHistogram, max_length: int, overlap: int) -> LengthHistogram:
    """`histogram` with each input longer than `max_length` as its segments, which are all of that length.

    Raises:
        InputError: the overlap leaves a segment no token of its own.
    """
    if overlap >= max_length:
        raise InputError(f"an overlap of {overlap} leaves segments of {max_length} tokens nothing of their own")
    kept = histogram.lengths <= max_length
    long = zip(histogram.lengths[~kept], histogram.counts[~kept], strict=True)
    segments = sum(
        len(plan_segments(int(length), window=max_length, overlap=overlap).segments) * int(count)
        for length, count in long
    )
    lengths = np.append(histogram.lengths[kept], max_length)
    counts = np.append(histogram.counts[kept], segments)
    unique, where = np.unique(lengths, return_inverse=True)
    merged = np.bincount(where, weights=counts).astype(np.int64)
    return LengthHistogram(unique[merged > 0], merged[merged > 0])


def _fixed_steps(histogram: LengthHistogram, model: CostModel, longest: int, steps: int) -> Boundaries:
    ends = sorted({-(-longest * step // steps) for step in range(1, steps + 1)})
    return Boundaries(tuple(ends), TrafficCost.of(histogram, model, ends=ends).total_ms(ends))


def _stability(
    cost: TrafficCost,
    chosen: Boundaries,
    budget: Budget,
    min_gain: float,
    resamples: int,
    seed: int,
    on_progress: Progress | None,
) -> Stability:
    rng = np.random.default_rng(seed)
    most, count, inputs = budget.most_buckets(), len(chosen.ends), int(cost.counts.sum())
    ends, regrets, same = [chosen.ends], list[float](), 0
    for done in range(resamples):
        if on_progress is not None:
            on_progress("stability", done, resamples)
        drawn = replace(cost, counts=rng.multinomial(inputs, cost.counts / inputs))
        curve = best_boundaries(drawn, most, memory=budget.memory)
        own = curve[count - 1]
        same += recommend(curve, min_gain) == count
        regrets.append(drawn.total_ms(chosen.ends) / own.total_ms - 1)
        if len(own.ends) == count:
            ends.append(own.ends)
    low, high = np.percentile(ends, [5, 95], axis=0, method="nearest")
    return Stability(
        resamples=resamples,
        ends=tuple((int(a), int(b)) for a, b in zip(low, high, strict=True)),
        same_count=same / resamples,
        regret_mean=float(np.mean(regrets)),
        regret_p95=float(np.percentile(regrets, 95)),
    )
