"""What a decoder graph is fed in one step, beside its cache: the builder proves graphs with it, the runtime generates.

A cache has `capacity` slots. A slot holds the key and value of the token at some *position* of the text; in order, the
first tokens of the text fill the first slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

EMPTY = -1
"""The position of a slot that holds no token."""


@dataclass(frozen=True)
class Chunk:
    """New tokens of each row; rows shorter than the longest are padded at the end.

    Attributes:
        ids: `(batch, length)` int64.
        lengths: the tokens of each row that count, `(batch,)`.
        starts: the position of each row's first new token, `(batch,)`.
        write_indices: the slot of each row's first new token, `(batch,)`; the others follow it, and
            `write_indices + length <= capacity`. In a cache in order it is `starts`.
    """

    ids: np.ndarray
    lengths: np.ndarray
    starts: np.ndarray
    write_indices: np.ndarray

    @property
    def positions(self) -> np.ndarray:
        """Of the new tokens, `(batch, length)` int64."""
        positions: np.ndarray = self.starts[:, None] + np.arange(self.ids.shape[1])
        return positions


def in_order(rows: Sequence[Sequence[int]], starts: Sequence[int], *, pad: int = 0) -> Chunk:
    """The chunk of `rows` of tokens, each behind the `starts` tokens that its cache holds in order."""
    lengths, first = np.array([len(row) for row in rows], np.int64), np.array(starts, np.int64)
    ids = np.full((len(rows), int(lengths.max())), pad, np.int64)
    for row, tokens in zip(ids, rows, strict=True):
        row[: len(tokens)] = tokens
    return Chunk(ids, lengths, first, first)


def slots_in_order(chunk: Chunk, capacity: int) -> np.ndarray:
    """The position in each slot once `chunk` is written behind a cache in order, `(batch, capacity)`."""
    slots = np.arange(capacity)
    return np.where(slots < (chunk.starts + chunk.lengths)[:, None], slots, EMPTY)


def visible(slots: np.ndarray, positions: np.ndarray, window: int | None = None) -> np.ndarray:
    """Which slots a token may look at, `(batch, 1, length, capacity)` bool.

    Args:
        slots: the position in each slot, `(batch, capacity)`, `EMPTY` where there is none.
        positions: of the tokens, `(batch, length)`.
        window: how many positions back a layer looks, the token's own included; None: all.
    """
    distance = positions[:, :, None] - slots[:, None, :]
    seen: np.ndarray = (slots[:, None, :] != EMPTY) & (distance >= 0)
    if window is not None:
        seen &= distance < window
    return seen[:, None]


def attention_feeds(chunk: Chunk, slots: np.ndarray, window: int | None) -> dict[str, np.ndarray]:
    """All that a graph of the form `attention` may take in a step, the cache aside.

    Args:
        chunk: the new tokens.
        slots: the position in each slot once the chunk is written, `(batch, capacity)`.
        window: of the layers with a sliding window; None: there are none.
    """
    feeds = _token_feeds(chunk) | {
        "write_indices": chunk.write_indices,
        "mask": visible(slots, chunk.positions),
    }
    return feeds if window is None else feeds | {"mask_sliding": visible(slots, chunk.positions, window)}


def grouped_feeds(chunk: Chunk) -> dict[str, np.ndarray]:
    """All that a graph of the form `gqa` takes in a step, the cache aside; its tokens stand in order.

    A row's tokens are written behind those it has, and look at all slots up to their own. ONNX Runtime takes several
    rows only where all of them are empty or get one token each.
    """
    filled = chunk.write_indices + chunk.lengths
    return _token_feeds(chunk) | {
        "seqlens_k": (filled - 1).astype(np.int32),
        "total_sequence_length": np.array([filled.max()], np.int32),
    }


def _token_feeds(chunk: Chunk) -> dict[str, np.ndarray]:
    return {"input_ids": chunk.ids, "position_ids": chunk.positions, "last": chunk.lengths - 1}
