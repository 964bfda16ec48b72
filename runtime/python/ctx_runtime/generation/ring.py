"""Where tokens go once a cache is full: the first few stay (attention sinks), the others make room in turn.

Attention does not depend on the order of slots: keys carry their rotation, and masks know positions. Both forms of a
graph so see the sinks and the last `capacity - sinks` tokens, the new one included.
"""

from __future__ import annotations

import numpy as np

from ctx_runtime.generation.feeds import EMPTY


def write_slot(position: int, *, capacity: int, sinks: int) -> int:
    """The slot of the token at `position`, in a graph of the form `attention`, which writes anywhere."""
    return position if position < capacity else sinks + (position - sinks) % (capacity - sinks)


def retired_slot(position: int, *, capacity: int, sinks: int) -> int:
    """Where the token at `position` moves before the next one is written, in a graph of the form `gqa`.

    That form writes behind what is there: with a full cache into the last slot, always. So whatever the last slot
    holds is copied away first, over the oldest token that is no sink. `position` is at least `capacity - 1`.
    """
    return sinks + (position - (capacity - 1)) % (capacity - 1 - sinks)


def held_positions(lengths: np.ndarray, *, capacity: int, sinks: int) -> np.ndarray:
    """The position in each slot of rows with `lengths` tokens, `(rows, capacity)`, in the form `attention`."""
    slots, last = np.arange(capacity), lengths[:, None] - 1
    rounds = np.where(slots < sinks, 0, (last - slots) // (capacity - sinks))
    return np.where(slots <= last, slots + rounds * (capacity - sinks), EMPTY)
