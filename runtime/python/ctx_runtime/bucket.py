"""Context-length buckets: inclusive ranges of lengths, in tokens, that tile `1..max` without gap or overlap."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_LENGTH = 1 << 24
"""The longest context a bucket may name, in tokens."""

Tokens = Annotated[int, Field(ge=1, le=MAX_LENGTH)]


class Bucket(BaseModel):
    """An inclusive range of lengths in tokens, and the length it is tuned for.

    A length equal to `max_length` belongs to the bucket.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    min_length: Tokens
    max_length: Tokens
    opt_length: Tokens

    @model_validator(mode="after")
    def _check_order(self) -> Bucket:
        if not self.min_length <= self.opt_length <= self.max_length:
            raise ValueError(
                f"expected min_length <= opt_length <= max_length, "
                f"got {self.min_length}, {self.opt_length}, {self.max_length}"
            )
        return self

    @property
    def name(self) -> str:
        """The bucket's name in files and reports: `ctx-512`."""
        return f"ctx-{self.max_length}"

    def __contains__(self, length: int) -> bool:
        return self.min_length <= length <= self.max_length


class LocatedError(ValueError):
    """An impossible value; `key` says where it stands in a profile or a manifest: `("buckets", 1)`."""

    def __init__(self, key: tuple[str | int, ...], message: str) -> None:
        super().__init__(message)
        self.key = key


def check_tiling(buckets: Sequence[Bucket]) -> None:
    """Raise LocatedError unless `buckets` tile `1..max` in ascending order, without gap or overlap."""
    if not buckets:
        raise LocatedError(("buckets",), "at least one bucket is needed")
    expected = 1
    for index, bucket in enumerate(buckets):
        if bucket.min_length != expected:
            kind = "a gap" if bucket.min_length > expected else "an overlap"
            raise LocatedError(
                ("buckets", index),
                f"{kind} before {bucket.name}: it starts at {bucket.min_length}, expected {expected}",
            )
        expected = bucket.max_length + 1


def find_bucket(buckets: Sequence[Bucket], length: int) -> int | None:
    """Index of the smallest of the tiled `buckets` that holds `length` tokens; None if it is longer than all."""
    index = bisect_left(buckets, length, key=lambda bucket: bucket.max_length)
    return index if index < len(buckets) else None
