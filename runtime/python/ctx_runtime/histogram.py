"""How many inputs there are of each length: what a plan is made for, and what a runtime records. Pure numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike
from pydantic import BaseModel, Field, ValidationError

from ctx_runtime.bucket import MAX_LENGTH, Tokens
from ctx_runtime.errors import InputError, first_problem


@dataclass(frozen=True, eq=False)
class LengthHistogram:
    """Inputs by length.

    Attributes:
        lengths: in tokens, ascending, each once, int64 `(lengths,)`.
        counts: how many inputs have each, int64 `(lengths,)`.
    """

    lengths: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, lengths: ArrayLike) -> LengthHistogram:
        """The histogram of single `lengths`, in any order.

        Raises:
            InputError: no length at all, or one that is not a whole number of tokens from 1 to 2**24.
        """
        values = np.asarray(lengths)
        if values.ndim != 1 or not len(values):
            raise InputError("no lengths", hint="give one number of tokens for each input")
        whole = np.issubdtype(values.dtype, np.number) and bool((values == np.trunc(values)).all())
        if not whole or values.min() < 1 or values.max() > MAX_LENGTH:
            raise InputError(f"a length is not a whole number from 1 to {MAX_LENGTH}", hint="lengths are in tokens")
        unique, counts = np.unique(values.astype(np.int64), return_counts=True)
        return cls(unique, counts.astype(np.int64))

    @classmethod
    def from_json(cls, text: str | bytes) -> LengthHistogram:
        """Read a JSON object with `{"lengths": {"17": 3, …}}`, the number of inputs of each length.

        Other keys may stand beside.

        Raises:
            InputError: the text is not such an object, or counts no input.
        """
        try:
            recorded = _Recorded.model_validate_json(text).lengths
        except ValidationError as error:
            raise InputError(
                f"not a recorded histogram: {first_problem(error)}",
                hint='expected {"lengths": {"17": 3, …}}: the number of inputs of each length in tokens',
            ) from None
        seen = sorted(length for length, count in recorded.items() if count)
        if not seen:
            raise InputError("the recorded histogram counts no input", hint="record some traffic first")
        return cls(np.array(seen, np.int64), np.array([recorded[length] for length in seen], np.int64))

    def to_json(self) -> dict[str, dict[str, int]]:
        """The object that `from_json` reads."""
        return {"lengths": {str(length): count for length, count in self.counts_by_length().items()}}

    def counts_by_length(self) -> dict[int, int]:
        """How many inputs have each length."""
        return dict(zip(self.lengths.tolist(), self.counts.tolist(), strict=True))

    @property
    def inputs(self) -> int:
        """How many inputs there are."""
        return int(self.counts.sum())

    @property
    def tokens(self) -> int:
        """How many tokens all inputs have together."""
        return int(self.counts @ self.lengths)

    @property
    def longest(self) -> int:
        """The longest length, in tokens."""
        return int(self.lengths[-1])

    def percentile(self, percent: float) -> int:
        """The smallest length that `percent` of the inputs do not exceed."""
        reached = np.cumsum(self.counts) >= self.inputs * percent / 100
        return int(self.lengths[int(reached.argmax())])

    def by_bucket(self, ends: Sequence[int]) -> tuple[int, ...]:
        """The inputs in each bucket that ends at one of `ends`, ascending; the last are longer than every bucket."""
        bucket = np.searchsorted(np.asarray(ends), self.lengths)
        counts = np.zeros(len(ends) + 1, np.int64)
        np.add.at(counts, bucket, self.counts)
        return tuple(counts.tolist())


class _Recorded(BaseModel):
    lengths: dict[Tokens, Annotated[int, Field(ge=0)]]
