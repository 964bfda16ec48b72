"""The KV cache of some rows of tokens: one buffer for the keys and one for the values of each layer."""

from __future__ import annotations

import numpy as np

from ctx_runtime.decoder import DecoderRecord
from ctx_runtime.errors import MemoryBudgetError
from ctx_runtime.system_memory import available_bytes


class KVCache:
    """Keys and values that a graph reads and writes in place.

    Args:
        decoder: what the graph is.
        rows: of the batch.
        capacity: tokens that a row has room for.

    Attributes:
        tokens: of each row, as far as their keys and values are cached; in a full cache the oldest may have left it.
        buffers: by the name of the cache's tensor, `key.0` …, each `(rows, kv_heads, capacity, head_size)`.
        prepared: larger ones by layer, taken before they are needed.

    Raises:
        MemoryBudgetError: the system has not so much memory available; nothing of it is taken then.
    """

    def __init__(self, decoder: DecoderRecord, *, rows: int, capacity: int) -> None:
        self.decoder, self.capacity = decoder, capacity
        self.tokens: list[list[int]] = [[] for _ in range(rows)]
        self._check_memory(capacity)
        self.buffers: dict[str, np.ndarray] = {}
        for layer in range(decoder.layers):
            self.buffers |= self._take(layer, capacity)
        self.prepared: dict[int, dict[str, np.ndarray]] = {}

    @property
    def nbytes(self) -> int:
        """Bytes that the buffers take."""
        return self._bytes(self.capacity)

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(map(len, self.tokens))

    def prepare(self, capacity: int) -> None:
        """Take the buffers of one more layer, of the capacity that `grow` will ask for.

        The first touch of fresh memory is most of what a move costs. One layer before each of the last steps in a
        cache spreads it. Where the system has no memory for all of them, none is taken: the text may end before.
        """
        self._drop_others(capacity)
        missing = next((layer for layer in range(self.decoder.layers) if layer not in self.prepared), None)
        if missing is not None and (self.prepared or self._fits(capacity)):
            self.prepared[missing] = self._take(missing, capacity)

    def grow(self, capacity: int) -> None:
        """Move to larger buffers by one copy of what is filled.

        Raises:
            MemoryBudgetError: the system has not so much memory available.
        """
        self._drop_others(capacity)
        if not self.prepared:
            self._check_memory(capacity, given_back=self.nbytes)
        filled = self.longest
        for layer in range(self.decoder.layers):
            larger = self.prepared.pop(layer, None) or self._take(layer, capacity)
            for slot, buffer in larger.items():
                buffer[:, :, :filled] = self.buffers[slot][:, :, :filled]
            self.buffers |= larger
        self.capacity = capacity

    def copy_last(self, row: int, slot: int) -> None:
        """Copy what the last slot of a row holds over another slot."""
        for buffer in self.buffers.values():
            buffer[row, :, slot] = buffer[row, :, -1]

    def _drop_others(self, capacity: int) -> None:
        """Drop what was prepared for another capacity: a text that goes on may skip the bucket that came next."""
        if any(buffer.shape[2] != capacity for larger in self.prepared.values() for buffer in larger.values()):
            self.prepared = {}

    def _fits(self, capacity: int) -> bool:
        left = available_bytes()
        return left is None or self._bytes(capacity) <= left

    def _check_memory(self, capacity: int, *, given_back: int = 0) -> None:
        """Refuse buffers that the system has no memory for; `given_back` bytes go as they come."""
        left = available_bytes()
        if left is not None and self._bytes(capacity) - given_back > left:
            fits = (left + given_back) // self._bytes(1)
            raise MemoryBudgetError(
                f"a KV cache of {len(self.tokens)} x {capacity} tokens takes {self._bytes(capacity)} bytes, "
                f"the system has {left} available",
                hint=f"the largest context that fits is {fits} tokens",
            )

    def _take(self, layer: int, capacity: int) -> dict[str, np.ndarray]:
        """The keys and values of a layer, zeros whose memory is there: what is masked must still be finite.

        They are one piece of memory: from 4 MiB on numpy asks for huge pages, whose first touch takes half the time.
        """
        decoder = self.decoder
        shape = (2, len(self.tokens), decoder.kv_heads, capacity, decoder.head_size)
        try:
            pair = np.empty(shape, decoder.cache_dtype)
        except MemoryError as error:
            raise MemoryBudgetError(
                f"no memory left for a KV cache of {self._bytes(capacity)} bytes",
                hint="generate fewer or shorter texts at a time",
            ) from error
        pair.fill(0)
        return {f"key.{layer}": pair[0], f"value.{layer}": pair[1]}

    def _bytes(self, capacity: int) -> int:
        return self.decoder.cache_bytes(batch=len(self.tokens), capacity=capacity)
