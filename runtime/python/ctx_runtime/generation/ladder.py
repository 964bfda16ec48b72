"""The buckets that a text climbs as it grows: which it begins in, which come next, and what each takes in memory."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from ctx_runtime.errors import InputError, MemoryBudgetError, TooLongError
from ctx_runtime.manifest import BucketRecord, Manifest


@dataclass(frozen=True)
class Ladder:
    """The buckets of a causal language model, for so many rows at once.

    Attributes:
        manifest: of its bundle.
        rows: of the batch.
        available: bytes that the system can give; None: unknown.
    """

    manifest: Manifest
    rows: int = 1
    available: int | None = None

    def bytes_in(self, bucket: BucketRecord) -> int:
        """Bytes of the KV cache in `bucket`, and of what a chunk of a prompt needs besides."""
        decoder = self.manifest.decoder
        assert decoder is not None  # noqa: S101 (made for causal language models only)
        cache = decoder.cache_bytes(batch=self.rows, capacity=bucket.max_length)
        return cache + bucket.activation.bytes_for(1, min(decoder.chunk, bucket.max_length))

    @functools.cached_property
    def affordable(self) -> tuple[BucketRecord, ...]:
        """The buckets whose memory budget, and whose system, holds what they take, in ascending order."""
        return tuple(bucket for bucket in self.manifest.buckets if self._refusal(bucket) is None)

    @property
    def slides(self) -> bool:
        """Whether a full cache lets old tokens go."""
        return self.manifest.overflow.policy == "sliding"

    def choose(self, prompt: int, new: int | None) -> tuple[BucketRecord, str]:
        """The smallest bucket that holds a prompt and what is to come, both in tokens, with the reason.

        Without a known number of new tokens, that is the bundle's reserve; a text that needs more moves on.

        Raises:
            TooLongError: no bucket holds them, and the overflow policy is `error`.
            MemoryBudgetError: those that would hold them may not take the memory, or the system does not have it.
        """
        reserve = self._reserve if new is None else new
        self._check_length(prompt, 1 if new is None else new)
        usable = self.affordable
        fitting = next((bucket for bucket in usable if bucket.max_length >= prompt + reserve), None)
        if fitting is None:
            self._check_memory(prompt + (1 if new is None else new))
            fitting = usable[-1]
        kind = "in reserve" if new is None else "new"
        return fitting, f"{prompt} tokens and {reserve} {kind}: {self.bytes_in(fitting) / 1e6:.1f} MB in {fitting.name}"

    def after(self, bucket: BucketRecord) -> BucketRecord | None:
        """The next larger bucket that may take its memory; None: there is none."""
        return next((other for other in self.affordable if other.max_length > bucket.max_length), None)

    def limit(self, prompt: int) -> int:
        """New tokens of an answer of unknown length, at most: what the largest bucket has room for.

        Where old tokens may go from it, the reserve; a bucket with no room beside the sinks lets none go.
        """
        capacity = self.affordable[-1].max_length
        room = capacity - prompt
        return max(room, self._reserve) if self.slides and capacity >= self._sinks + 2 else room

    @property
    def _sinks(self) -> int:
        assert self.manifest.decoder is not None  # noqa: S101
        return self.manifest.decoder.sinks

    @property
    def _reserve(self) -> int:
        assert self.manifest.decoder is not None  # noqa: S101
        return self.manifest.decoder.reserve

    def _check_length(self, prompt: int, new: int) -> None:
        longest = self.manifest.max_length
        if prompt < 1:
            raise InputError("the prompt is empty", hint="give at least one token")
        if prompt + new > longest and not self.slides:
            raise TooLongError(
                f"a prompt of {prompt} tokens and {new} new ones are more than the {longest} that the bundle takes",
                hint="shorten it, or build with the overflow policy `sliding`",
            )

    def _check_memory(self, needed: int) -> None:
        """Refuse a text that fits no affordable bucket although the bundle has one for it, or has none at all."""
        most = self.affordable[-1].max_length if self.affordable else 0
        if most == 0 or (needed > most and most < self.manifest.max_length):
            bucket = next((b for b in self.manifest.buckets if b.max_length >= needed), self.manifest.buckets[-1])
            raise MemoryBudgetError(
                f"{self.rows} x {needed} tokens take {self.bytes_in(bucket)} bytes in {bucket.name}, "
                f"{self._refusal(bucket)}",
                hint=f"the largest context that fits is {most} tokens",
            )

    def _refusal(self, bucket: BucketRecord) -> str | None:
        """Why a bucket may not take its memory; None: it may."""
        needed = self.bytes_in(bucket)
        if bucket.memory_budget is not None and needed > bucket.memory_budget:
            return f"its budget is {bucket.memory_budget}"
        if self.available is not None and needed > self.available:
            return f"the system has {self.available} available"
        return None
