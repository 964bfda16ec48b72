"""Length -> bucket, with the reason: the smallest that holds an input, within its budgets, and good enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ctx_runtime.bucket import find_bucket
from ctx_runtime.errors import CtxError, MemoryBudgetError, QualityError, TimeBudgetError
from ctx_runtime.manifest import BucketRecord, QualityRecord
from ctx_runtime.parity import Form


class Choice(NamedTuple):
    """The bucket for an input, and in words why it is this one."""

    bucket: BucketRecord
    reason: str


class _Obstacle(NamedTuple):
    """Why a bucket is passed over."""

    kind: Literal["memory", "time", "quality"]
    reason: str


def fits_budget(bucket: BucketRecord, form: Form, batch: int, length: int) -> bool:
    """Whether the memory budget of `bucket` takes `batch` rows of `length` tokens in a graph of `form`."""
    return bucket.memory_budget is None or activation_bytes(bucket, form, batch, length) <= bucket.memory_budget


def activation_bytes(bucket: BucketRecord, form: Form, batch: int, length: int) -> int:
    """Bytes of intermediate results of `batch` rows of `length` tokens in a graph of `bucket` and `form`."""
    activation = bucket.activation if form == "unmasked" else bucket.masked_activation
    return activation.bytes_for(batch, length)


@dataclass(frozen=True)
class Chooser:
    """Chooses among the buckets of a bundle.

    Attributes:
        buckets: in ascending order.
        quality: what is known of their sub-networks by length.
        floor: the least quality that an input is run with; None: any.
    """

    buckets: Sequence[BucketRecord]
    quality: Sequence[QualityRecord] = ()
    floor: float | None = None

    def choose(self, length: int, batch: int = 1) -> Choice:
        """The smallest bucket that holds `length` tokens within its budgets, and whose quality there is enough.

        A time budget is held against the latency in the table of quality; without one there, it is not.

        Raises:
            MemoryBudgetError: buckets are long enough, but none may take so much memory.
            TimeBudgetError: none may take so much time.
            QualityError: none of those within their budgets is known to be good enough.
            ValueError: no bucket is long enough.
        """
        first = find_bucket(self.buckets, length)
        if first is None:
            raise ValueError(f"no bucket holds {length} tokens")
        obstacles: list[_Obstacle] = []
        for bucket in self.buckets[first:]:
            obstacle = self._obstacle(bucket, length, length, batch)
            if obstacle is None:
                reason = f"{length} tokens fit {bucket.min_length}..{bucket.max_length}"
                return Choice(bucket, obstacles[0].reason if obstacles else reason)
            obstacles.append(obstacle)
        raise self._refusal(obstacles, self.buckets[first:], length, batch)

    def check_segments(self, length: int) -> None:
        """Refuse a row of `length` tokens that the longest bucket may not run in segments which the model fuses.

        Raises:
            MemoryBudgetError, TimeBudgetError, QualityError: as `choose`; the quality is that of the whole row.
        """
        longest = self.buckets[-1]
        obstacle = self._obstacle(longest, longest.max_length, length, 1)
        if obstacle is not None:
            raise self._refusal([obstacle], [longest], length, 1)

    def record(self, bucket: BucketRecord, length: int) -> QualityRecord | None:
        """What is known of the sub-network of `bucket` at inputs of `length` tokens."""
        for record in self.quality:
            if record.subnetwork == bucket.subnetwork and record.min_length <= length <= record.max_length:
                return record
        return None

    def _obstacle(self, bucket: BucketRecord, run_length: int, length: int, batch: int) -> _Obstacle | None:
        """Why `bucket` can't run an input of `length` tokens, of which `run_length` run at once."""
        record = self.record(bucket, length)
        if not fits_budget(bucket, "unmasked", batch, run_length):
            return _Obstacle("memory", f"{length} tokens need more memory in {bucket.name} than its budget")
        latency = record.latency_ms if record is not None else None
        if bucket.time_budget_ms is not None and latency is not None and latency > bucket.time_budget_ms:
            return _Obstacle("time", f"{length} tokens take longer in {bucket.name} than its budget")
        if self.floor is None or (record is not None and record.value >= self.floor):
            return None
        found = f"only {record.metric} {record.value:.4g}" if record is not None else "no known quality"
        return _Obstacle("quality", f"{length} tokens have {found} in {bucket.name}, not {self.floor:.4g}")

    def _refusal(
        self, obstacles: Sequence[_Obstacle], buckets: Sequence[BucketRecord], length: int, batch: int
    ) -> CtxError:
        """The error where every one of `buckets` has an obstacle."""
        kinds = {obstacle.kind for obstacle in obstacles}
        if "quality" in kinds:
            return self._not_good_enough(buckets, length)
        if "time" in kinds:
            return TimeBudgetError(
                f"{length} tokens take longer than the time budget of every bucket that holds them",
                hint="raise time_budget_ms, or build with smaller sub-networks",
            )
        return MemoryBudgetError(
            f"{batch} x {length} tokens need more memory than the budget of every bucket that holds them",
            hint=f"the longest input that fits is {self._longest_within_budget()} tokens",
        )

    def _not_good_enough(self, buckets: Sequence[BucketRecord], length: int) -> QualityError:
        known = [(record.value, record.metric, b.name) for b in buckets if (record := self.record(b, length))]
        found = "{1} {0:.4g} in {2}".format(*max(known)) if known else "not known"
        return QualityError(
            f"{length} tokens run nowhere with a quality of {self.floor:.4g}: the best is {found}",
            hint="lower min_quality, measure the model at this length, or build a bucket with more of the network",
        )

    def _longest_within_budget(self) -> int:
        """The longest single row that some bucket's memory budget takes, in tokens; 0 if none."""
        longest = 0
        for bucket in self.buckets:
            low, high = bucket.min_length - 1, bucket.max_length
            while low < high:
                middle = (low + high + 1) // 2
                low, high = (middle, high) if fits_budget(bucket, "unmasked", 1, middle) else (low, middle - 1)
            longest = max(longest, low if low >= bucket.min_length else 0)
        return longest
