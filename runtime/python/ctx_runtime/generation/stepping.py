"""Runs a decoder graph step by step over plain arrays, to compare it with PyTorch in the build and on the device."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from ctx_runtime.decoder import GREEDY_TOKENS, DecoderRecord
from ctx_runtime.generation.feeds import attention_feeds, grouped_feeds, in_order, slots_in_order

Run = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


class Stepper:
    """One conversation with a decoder graph, for a batch of rows.

    Args:
        run: gives the outputs for feeds that hold exactly `inputs`.
        inputs: the names that the graph takes.
        decoder: what the graph is.
        capacity: of the cache, in tokens.
        batch: rows.
    """

    def __init__(
        self, run: Run, inputs: Collection[str], decoder: DecoderRecord, *, capacity: int, batch: int = 1
    ) -> None:
        self._run, self._inputs, self._decoder, self._capacity = run, inputs, decoder, capacity
        self._fills = [0] * batch
        empty = np.zeros((batch, decoder.kv_heads, capacity, decoder.head_size), decoder.cache_dtype)
        self._cache = dict.fromkeys(decoder.slots, empty)

    def step(self, rows: Sequence[Sequence[int]]) -> np.ndarray:
        """The logits `(batch, vocab)` after the last of each row's new tokens."""
        chunk = in_order(rows, self._fills)
        if self._decoder.form == "attention":
            slots = slots_in_order(chunk, self._capacity)
            feeds = attention_feeds(chunk, slots, self._decoder.sliding_window)
        else:
            feeds = grouped_feeds(chunk)
        feeds = {name: array for name, array in feeds.items() if name in self._inputs}
        outputs = self._run(feeds | {f"past_{slot}": array for slot, array in self._cache.items()})
        self._cache = {slot: outputs[f"present_{slot}"] for slot in self._cache}
        self._fills = [fill + len(row) for fill, row in zip(self._fills, rows, strict=True)]
        return outputs["logits"]

    def read(self, ids: Sequence[int]) -> np.ndarray:
        """Give the only row more tokens: in chunks, but the last 16 one by one.

        Returns the logits `(n, vocab)` after the last `n` tokens: those that were given one by one, and the one before.
        """
        ahead = len(ids) - min(GREEDY_TOKENS, len(ids) - 1)
        chunks = [
            ids[start : min(start + self._decoder.chunk, ahead)] for start in range(0, ahead, self._decoder.chunk)
        ]
        rows = [self.step([tokens]) for tokens in (*chunks, *([token] for token in ids[ahead:]))]
        return np.concatenate(rows[len(chunks) - 1 :])
