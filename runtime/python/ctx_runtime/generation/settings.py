"""What a caller may ask of a generation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from ctx_runtime.errors import InputError


class Options(TypedDict, total=False):
    """The keywords of `Runtime.generate`: the fields of `Settings`."""

    max_new_tokens: int | None
    temperature: float
    top_k: int | None
    top_p: float
    min_p: float
    repetition_penalty: float
    seed: int | None
    stop: str | Sequence[str]
    stop_ids: Sequence[int]
    logprobs: int | None


@dataclass(frozen=True)
class Settings:
    """How text is generated. By default the likeliest token is taken each time, until the model ends the text.

    Attributes:
        max_new_tokens: tokens of the answer, at most; None: until the largest bucket is full.
        temperature: 0 takes the likeliest token; 1 draws from the model's own distribution, more draws more evenly.
        top_k: draw from this many of the likeliest tokens only.
        top_p: draw from the likeliest tokens that together have this probability.
        min_p: draw from tokens that have at least this share of the likeliest one's probability.
        repetition_penalty: over 1, tokens that the prompt or the answer holds already become less likely.
        seed: the same seed draws the same tokens, alone or in a batch; None: others each time.
        stop: the answer ends before the first of these texts.
        stop_ids: the answer ends with the first of these tokens, as it does with those by which the model ends texts.
        logprobs: give each token's log-probability, and those of this many of the likeliest ones; None: none.

    Raises:
        InputError: a value outside of its range.
    """

    max_new_tokens: int | None = None
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: str | Sequence[str] = ()
    stop_ids: Sequence[int] = ()
    logprobs: int | None = None

    def __post_init__(self) -> None:
        ranges = {
            "max_new_tokens": ("at least 1", self.max_new_tokens is None or self.max_new_tokens >= 1),
            "temperature": ("at least 0", 0 <= self.temperature < float("inf")),
            "top_k": ("at least 1", self.top_k is None or self.top_k >= 1),
            "top_p": ("above 0 and at most 1", 0 < self.top_p <= 1),
            "min_p": ("from 0 to 1", 0 <= self.min_p <= 1),
            "repetition_penalty": ("above 0", 0 < self.repetition_penalty < float("inf")),
            "seed": ("at least 0", self.seed is None or self.seed >= 0),
            "stop": ("texts that are not empty", all(self.stops)),
            "logprobs": ("at least 0", self.logprobs is None or self.logprobs >= 0),
        }
        for name, (expected, holds) in ranges.items():
            if not holds:
                raise InputError(f"{name}: expected {expected}, got {getattr(self, name)!r}")

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end an answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
