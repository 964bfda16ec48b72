"""What traffic costs in one set of buckets or another: latency by length, and the padding that a backend adds."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ctx_runtime.errors import InputError
from ctx_runtime.histogram import LengthHistogram

PaddingRule = Literal["exact", "batch", "bucket"]


@dataclass(frozen=True)
class AnalyticLatency:
    """`fixed + linear * length + quadratic * length**2`, in milliseconds: per call, per token, per pair of tokens."""

    fixed_ms: float
    linear_ms: float
    quadratic_ms: float

    def __post_init__(self) -> None:
        terms = (self.fixed_ms, self.linear_ms, self.quadratic_ms)
        if not all(0 <= term < float("inf") for term in terms) or self.linear_ms + self.quadratic_ms == 0:
            raise InputError(
                f"no latency grows as {terms}",
                hint="none of fixed, linear and quadratic is negative, one of the last two is above 0",
            )

    def row_ms(self, lengths: np.ndarray) -> np.ndarray:
        """What a row of each of `lengths` takes beside the fixed part, in milliseconds."""
        return self.linear_ms * lengths + self.quadratic_ms * lengths.astype(float) ** 2


@dataclass(frozen=True)
class MeasuredLatency:
    """Measured points, joined by straight lines; the last line goes on. A longer row never takes less.

    Attributes:
        lengths: in tokens, ascending, at least two.
        ms: of a row of each length alone, in milliseconds.
    """

    lengths: tuple[int, ...]
    ms: tuple[float, ...]

    def __post_init__(self) -> None:
        ascending = all(shorter < longer for shorter, longer in itertools.pairwise(self.lengths))
        positive = all(0 < value < float("inf") for value in self.ms)
        if len(self.lengths) < 2 or len(self.lengths) != len(self.ms) or not ascending or not positive:
            raise InputError(
                "measured latencies need two lengths or more, ascending, each with milliseconds above 0",
                hint="write them with ctx-export bench BUNDLE -o bench.json",
            )

    @property
    def fixed_ms(self) -> float:
        """Where the first line meets length 0, not below 0: what a call takes whatever its length."""
        (shorter, longer), (first, second) = self.lengths[:2], self.ms[:2]
        return max(0.0, first - shorter * max(0.0, second - first) / (longer - shorter))

    def row_ms(self, lengths: np.ndarray) -> np.ndarray:
        """What a row of each of `lengths` takes beside the fixed part, in milliseconds."""
        known, ms = np.array(self.lengths), np.maximum.accumulate(np.array(self.ms))
        slope = (ms[-1] - ms[-2]) / (known[-1] - known[-2])
        beyond = np.maximum(lengths - known[-1], 0) * slope
        total: np.ndarray = np.interp(lengths, [0, *known], [self.fixed_ms, *ms]) + beyond
        return total - self.fixed_ms


Latency = AnalyticLatency | MeasuredLatency

DEFAULT_LATENCY = AnalyticLatency(3.0, 0.243, 1.66e-4)
"""all-MiniLM-L6-v2 in fp32 on one thread; times 1.13 within 10 % of benchmarks/results/overhead.json, 8 to 512 tokens.

Only the ratios of the three numbers matter to where buckets end.
"""


@dataclass(frozen=True)
class CostModel:
    """What an input costs in its bucket.

    Attributes:
        latency: of a row by length.
        rule: `exact`: rows run alone at their own length; `batch`: rows of a bucket are batched as they come, padded to
            the longest of the batch; `bucket`: shapes are fixed, every row is padded to the bucket's end.
        batch: rows that run together under `batch` and `bucket`; they share the fixed part of a call.
    """

    latency: Latency
    rule: PaddingRule = "bucket"
    batch: int = 1

    def __post_init__(self) -> None:
        if self.batch < 1 or (self.rule == "exact" and self.batch > 1):
            raise InputError(f"no batch of {self.batch} under the padding rule {self.rule!r}", hint="exact is batch 1")

    @property
    def call_ms(self) -> float:
        """A row's part of the fixed part of a call, in milliseconds."""
        return self.latency.fixed_ms / self.batch


@dataclass(frozen=True, eq=False)
class TrafficCost:
    """The cost of any bucket over some traffic.

    Attributes:
        model: what an input costs.
        lengths: observed lengths and other lengths at which a bucket may end, ascending, `(candidates,)`.
        counts: inputs of each, 0 where none was observed, `(candidates,)`.
    """

    model: CostModel
    lengths: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, histogram: LengthHistogram, model: CostModel, ends: Sequence[int] = ()) -> TrafficCost:
        """The cost of `histogram`; buckets may end at observed lengths and at `ends`."""
        lengths = np.union1d(histogram.lengths, np.asarray(ends, np.int64))
        counts = np.zeros(len(lengths), np.int64)
        counts[np.searchsorted(lengths, histogram.lengths)] = histogram.counts
        return cls(model, lengths, counts)

    def bucket_ms(self, first: int) -> np.ndarray:
        """Milliseconds of all inputs of the bucket from candidate `first` to each later one, `(candidates - first,)`.

        Rows of a batch are taken as independent draws from their bucket: the longest of `b` rows is at most candidate
        `k` with probability `(inputs up to k / inputs)**b`.
        """
        inputs = np.cumsum(self.counts[first:]).astype(float)
        row = self.model.latency.row_ms(self.lengths[first:])
        if self.model.rule == "bucket":
            return inputs * (self.model.call_ms + row)
        with np.errstate(divide="ignore"):
            log_inputs = np.log(inputs)
            steps = self.model.batch * log_inputs[:-1] + np.log(np.diff(row))
        saved = np.concatenate([[-np.inf], np.logaddexp.accumulate(steps)])
        with np.errstate(invalid="ignore"):
            longest: np.ndarray = row - np.exp(saved - self.model.batch * log_inputs)
        return np.asarray(np.where(inputs > 0, inputs * (self.model.call_ms + longest), 0.0))

    def total_ms(self, ends: Sequence[int]) -> float:
        """Milliseconds of all inputs in the buckets that end at `ends`, which are candidates and hold every input."""
        stops = np.searchsorted(self.lengths, ends) + 1
        starts = [0, *stops[:-1]]
        return float(sum(self.bucket_ms(start)[stop - start - 1] for start, stop in zip(starts, stops, strict=True)))

    def run_lengths(self, start: int, stop: int) -> np.ndarray:
        """The share of rows of the bucket of candidates `start..stop-1` that run at each length, `(stop - start,)`."""
        counts = self.counts[start:stop].astype(float)
        if self.model.rule == "bucket" or not counts.sum():
            counts = np.append(np.zeros(stop - start - 1), 1.0)
        reached: np.ndarray = np.cumsum(counts) / counts.sum()
        shares: np.ndarray = np.diff(reached**self.model.batch, prepend=0.0)
        return shares
