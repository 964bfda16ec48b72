"""Whether traffic still is what the buckets were planned for. Pure numpy.

The measure is the population stability index, the symmetric divergence `sum((now - planned) * ln(now / planned))` over
the shares of the buckets, and of what is longer than all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ctx_runtime.errors import InputError

WATCH, REPLAN = 0.1, 0.25
"""The usual bounds of the index: below the first nothing has moved, from the second on the plan is for others."""

Verdict = Literal["fits", "watch", "replan"]


@dataclass(frozen=True)
class BucketDrift:
    """How the share of one bucket has moved.

    Attributes:
        end: the bucket's longest length in tokens; None: inputs longer than every bucket.
        planned: its share of the inputs that the plan was made for.
        now: its share of the recorded inputs.
        index: its part of the population stability index, never negative.
    """

    end: int | None
    planned: float
    now: float
    index: float


@dataclass(frozen=True)
class Drift:
    """The distance of recorded traffic from the planned one.

    Attributes:
        buckets: by length; the last is what is longer than every bucket.
        index: the population stability index.
        by_chance: what the index would be on average if nothing had moved, with so few inputs.
    """

    buckets: tuple[BucketDrift, ...]
    index: float
    by_chance: float

    @property
    def verdict(self) -> Verdict:
        """What to do: nothing, watch it, or plan anew for the recorded traffic and build again."""
        moved = self.index - self.by_chance
        return "replan" if moved >= REPLAN else "watch" if moved >= WATCH else "fits"


def drift(recorded: Sequence[int], planned: Sequence[int], ends: Sequence[int]) -> Drift:
    """Compare recorded with planned traffic over the buckets that end at `ends`, in tokens, ascending.

    Half an input is added to every bucket on both sides, so that an empty one is finite.

    Args:
        recorded: inputs in each bucket, and last those longer than every bucket, as `LengthHistogram.by_bucket` counts.
        planned: the same of the traffic that was planned for.
        ends: the longest length of each bucket, one fewer.

    Raises:
        InputError: no input on one side, or counts for other buckets than these.
    """
    counts, planned_counts = np.asarray(recorded, float), np.asarray(planned, float)
    if len(counts) != len(ends) + 1 or len(planned_counts) != len(ends) + 1:
        raise InputError(f"expected {len(ends) + 1} counts, one for each bucket and one for longer inputs")
    inputs, planned_inputs = counts.sum(), planned_counts.sum()
    if not inputs or not planned_inputs:
        raise InputError("no input to compare", hint="record some traffic first")
    now, before = counts / inputs, planned_counts / planned_inputs
    smooth_now, smooth_before = _smoothed(counts), _smoothed(planned_counts)
    index = (smooth_now - smooth_before) * np.log(smooth_now / smooth_before)
    used = int(((now > 0) | (before > 0)).sum())
    return Drift(
        buckets=tuple(
            BucketDrift(end, float(then), float(share), float(part))
            for end, then, share, part in zip((*ends, None), before, now, index, strict=True)
        ),
        index=float(index.sum()),
        by_chance=float((used - 1) * (1 / inputs + 1 / planned_inputs)),
    )


def _smoothed(counts: np.ndarray) -> np.ndarray:
    """The shares of `counts` `(buckets + 1,)` with half an input more in each."""
    smoothed: np.ndarray = (counts + 0.5) / (counts.sum() + 0.5 * len(counts))
    return smoothed
