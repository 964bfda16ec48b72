"""Runs a decoder graph step by step over plain arrays: what is compared with PyTorch before a bundle ships."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal

import numpy as np

from ctx_export.decoding.graph import DecoderShape
from ctx_runtime.generation.feeds import attention_feeds, grouped_feeds, in_order, slots_in_order

Form = Literal["attention", "gqa"]
"""The canonical graph, or the one with `com.microsoft.GroupQueryAttention`."""
Run = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


class Stepper:
    """One conversation with a decoder graph, for a batch of rows.

    Args:
        run: gives the outputs for feeds that hold exactly `inputs`.
        inputs: the names that the graph takes.
        shape: of the cache.
        form: of the graph.
        capacity: of the cache, in tokens.
        batch: rows.
    """

    def __init__(
        self, run: Run, inputs: Collection[str], shape: DecoderShape, *, form: Form, capacity: int, batch: int = 1
    ) -> None:
        self._run, self._inputs, self._form, self._capacity = run, inputs, form, capacity
        self._window = next((window for window in shape.windows if window is not None), None)
        self._fills = [0] * batch
        empty = np.zeros((batch, shape.kv_heads, capacity, shape.head_size), np.float32)
        self._cache = {f"{kind}.{layer}": empty for layer in range(shape.layers) for kind in ("key", "value")}

    def step(self, rows: Sequence[Sequence[int]]) -> np.ndarray:
        """The logits `(batch, vocab)` after the last of each row's new tokens."""
        chunk = in_order(rows, self._fills)
        if self._form == "attention":
            feeds = attention_feeds(chunk, slots_in_order(chunk, self._capacity), self._window)
        else:
            feeds = grouped_feeds(chunk)
        feeds = {name: array for name, array in feeds.items() if name in self._inputs}
        outputs = self._run(feeds | {f"past_{slot}": array for slot, array in self._cache.items()})
        self._cache = {slot: outputs[f"present_{slot}"] for slot in self._cache}
        self._fills = [fill + len(row) for fill, row in zip(self._fills, rows, strict=True)]
        return outputs["logits"]
