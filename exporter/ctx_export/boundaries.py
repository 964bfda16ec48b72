"""Where buckets end: an exact dynamic programme over the lengths that were observed. Pure numpy.

Some cheapest set of buckets ends at observed lengths only: moving an end down to the longest input of its bucket makes
no run longer. With `n` lengths and at most `k` buckets the programme looks at `k * n**2 / 2` pairs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ctx_export.costs import TrafficCost
from ctx_runtime.errors import InputError
from ctx_runtime.manifest import Activation

_BISECTIONS = 30
_ROUNDING = 1e-9
"""Cheaper by a smaller share than this is not cheaper."""

_Label = tuple[float, int, tuple[int, ...]]
"""Buckets up to some candidate: their cost in milliseconds, their bytes, and the candidates that they end at."""


@dataclass(frozen=True)
class MemoryLimit:
    """What the buckets may take together: the weights once, and one run in every bucket at once.

    Attributes:
        limit_bytes: the most.
        weights_bytes: what the weights take.
        activation: what a run takes by its length.
        batch: rows of a run.
    """

    limit_bytes: int
    weights_bytes: int
    activation: Activation
    batch: int = 1

    def run_bytes(self, lengths: np.ndarray) -> np.ndarray:
        """What a run takes in a bucket that ends at each of `lengths`, int64 `(lengths,)`.

        Raises:
            InputError: the bucket that ends at the last alone takes more than the limit.
        """
        needed = np.array([self.activation.bytes_for(self.batch, int(length)) for length in lengths], np.int64)
        if needed[-1] + self.weights_bytes > self.limit_bytes:
            fitting = lengths[needed + self.weights_bytes <= self.limit_bytes]
            raise InputError(
                f"{lengths[-1]} tokens and the weights take {needed[-1] + self.weights_bytes} bytes, the memory budget "
                f"is {self.limit_bytes}",
                hint=f"--max-length {fitting[-1]} is the longest that fits" if len(fitting) else "raise the budget",
            )
        return needed


@dataclass(frozen=True)
class Boundaries:
    """Where buckets end, in tokens, ascending, and what all inputs cost then, in milliseconds."""

    ends: tuple[int, ...]
    total_ms: float


def best_boundaries(
    cost: TrafficCost, most: int, *, memory: MemoryLimit | None = None, allowed: Sequence[int] | None = None
) -> tuple[Boundaries, ...]:
    """The cheapest boundaries with at most 1, 2, … `most` buckets; the last bucket ends at the last candidate.

    Args:
        cost: the traffic.
        most: the most buckets; there are never more than candidates.
        memory: what they may take.
        allowed: the only lengths at which buckets may end; by default every candidate.

    Raises:
        InputError: the memory does not allow one bucket.
    """
    price = np.zeros(len(cost.lengths))
    if allowed is not None:
        price[~np.isin(cost.lengths, allowed)] = np.inf
    needed = None if memory is None else memory.run_bytes(cost.lengths)
    most = min(most, len(cost.lengths))
    to_go, choice = _solve(cost, price, most)
    plans = []
    for count in range(1, most + 1):
        plan = Boundaries(_follow(cost, choice, count), float(to_go[count, 0]))
        if memory is not None and needed is not None:
            left = memory.limit_bytes - memory.weights_bytes
            if _bytes(cost, needed, plan.ends) > left:
                plan = _within(cost, price, needed, left, count)
        plans.append(plan)
    return tuple(plans)


def _solve(cost: TrafficCost, price: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Cost of the candidates from each on with at most each number of buckets, and where the first of these ends.

    Args:
        cost: the traffic.
        price: added for a bucket that ends at a candidate, `(candidates,)`.
        most: the most buckets.

    Returns:
        Milliseconds and the candidate that is the end, both `(most + 1, candidates + 1)`.
    """
    size = len(cost.lengths)
    to_go = np.full((most + 1, size + 1), np.inf)
    to_go[:, size] = 0.0
    choice = np.zeros((most + 1, size + 1), np.int64)
    for first in reversed(range(size)):
        total = cost.bucket_ms(first) + price[first:] + to_go[:-1, first + 1 :]
        choice[1:, first] = first + total.argmin(1)
        to_go[1:, first] = total.min(1)
    return to_go, choice


def _follow(cost: TrafficCost, choice: np.ndarray, count: int) -> tuple[int, ...]:
    """The ends that `choice` leads to from the first candidate on, with at most `count` buckets."""
    first, ends = 0, list[int]()
    while first < len(cost.lengths):
        end = int(choice[count - len(ends), first])
        ends.append(int(cost.lengths[end]))
        first = end + 1
    return tuple(ends)


def _bytes(cost: TrafficCost, needed: np.ndarray, ends: Sequence[int]) -> int:
    return int(needed[np.searchsorted(cost.lengths, ends)].sum())


def _within(cost: TrafficCost, price: np.ndarray, needed: np.ndarray, left: int, count: int) -> Boundaries:
    """The cheapest of at most `count` buckets whose `needed` bytes are at most `left` together.

    A price per byte (a Lagrange multiplier) gives a bound from below and a first solution; what the bound does not
    exclude is searched, keeping at each candidate only what no other beats in both cost and memory.
    """
    rate, best = _lagrange(cost, price, needed, left, count)
    bound, _ = _solve(cost, price + rate * needed, count)
    frontier: dict[int, list[_Label]] = {0: [(0.0, 0, ())]}
    for more in reversed(range(count)):
        reached: dict[int, list[_Label]] = {}
        for first, labels in frontier.items():
            bucket = cost.bucket_ms(first) + price[first:]
            for spent, taken, ends in labels:
                total, held = spent + bucket, taken + needed[first:]
                least = total + rate * (held - left) + bound[more, first + 1 :]
                for step in np.flatnonzero((held <= left) & (least < best.total_ms * (1 - _ROUNDING))):
                    end = first + int(step)
                    reached.setdefault(end + 1, []).append((float(total[step]), int(held[step]), (*ends, end)))
        for spent, _, ends in reached.pop(len(cost.lengths), []):
            if spent < best.total_ms:
                best = Boundaries(tuple(int(cost.lengths[end]) for end in ends), spent)
        frontier = {first: _undominated(labels) for first, labels in reached.items()}
    return best


def _lagrange(
    cost: TrafficCost, price: np.ndarray, needed: np.ndarray, left: int, count: int
) -> tuple[float, Boundaries]:
    """The milliseconds per byte at which the cheapest boundaries just fit, and the cheapest that were seen to fit."""
    one = (int(cost.lengths[-1]),)
    best = Boundaries(one, cost.total_ms(one))
    low, high = best.total_ms * 1e-15, best.total_ms
    for _ in range(_BISECTIONS):
        rate = math.sqrt(low * high)
        ends = _follow(cost, _solve(cost, price + rate * needed, count)[1], count)
        if _bytes(cost, needed, ends) > left:
            low = rate
        else:
            high = rate
            best = min(best, Boundaries(ends, cost.total_ms(ends)), key=lambda plan: plan.total_ms)
    return high, best


def _undominated(labels: list[_Label]) -> list[_Label]:
    """Those labels that no other beats in both cost and bytes."""
    kept: list[_Label] = []
    for label in sorted(labels):
        if not kept or label[1] < kept[-1][1]:
            kept.append(label)
    return kept
