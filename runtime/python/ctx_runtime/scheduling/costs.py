"""What batches cost, measured as they run: seconds per useful token by bucket, length and number of rows."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

_TRIALS = 3
"""A size of batch is measured so often before it is judged."""
_REVIEW = 64
"""Every so many decisions the size that was measured longest ago is tried again: what was slow once may not be."""
_WEIGHT, _STALE_WEIGHT = 0.1, 0.5
"""Of the newest measurement in a mean, at least; the second where the one before is older than a review."""


@dataclass(slots=True)
class _Mean:
    """A mean over the last measurements, in seconds per token.

    Attributes:
        measured: how many there were.
        turn: when the last was taken, counted in decisions.
    """

    value: float = 0.0
    measured: int = 0
    turn: int = 0

    def add(self, value: float, turn: int) -> None:
        self.measured += 1
        weight = _WEIGHT if turn - self.turn < _REVIEW else _STALE_WEIGHT
        self.value += (value - self.value) * max(1 / self.measured, weight)
        self.turn = turn


class BatchCosts:
    """Not for several threads at once.

    Sizes are compared by powers of two; and among rows of about the same length, by powers of two as well: short ones
    take more for each token, in whatever batch.
    """

    def __init__(self) -> None:
        self._means: dict[Hashable, _Mean] = {}
        self._tokens = self._seconds = 0.0
        self._decisions = 0

    def record(self, bucket: int, length: int, rows: int, tokens: int, seconds: float) -> None:
        """A batch of `rows` of about `length` tokens, `tokens` without padding, took `seconds`."""
        self._mean(bucket, length, rows).add(seconds / tokens, self._decisions)
        self._tokens += tokens - _WEIGHT * self._tokens
        self._seconds += seconds - _WEIGHT * self._seconds

    def cheapest(self, bucket: int, length: int, most: int) -> int:
        """How many of `most` rows of about `length` tokens should run together: the cheapest size for each token."""
        if most == 1:
            return 1
        self._decisions += 1
        sizes = [1 << power for power in range(most.bit_length())]
        sizes[-1] = most
        means = {size: self._mean(bucket, length, size) for size in sizes}
        untried = [size for size in sizes if means[size].measured < _TRIALS]
        if untried:
            return untried[-1]
        if self._decisions % _REVIEW == 0:
            return min(sizes, key=lambda size: means[size].turn)
        return min(sizes, key=lambda size: means[size].value)

    def seconds(self, tokens: int) -> float:
        """What `tokens` would take one worker, as the last batches of all kinds did; before the first, 1."""
        return tokens * self._seconds / self._tokens if self._tokens else 1.0

    def _mean(self, bucket: int, length: int, rows: int) -> _Mean:
        return self._means.setdefault((bucket, length.bit_length(), rows.bit_length()), _Mean())
