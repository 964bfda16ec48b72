"""Where tensors lie in the weight file, and the rules that hold for all graphs of a bundle together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ctx_runtime.errors import BundleError

ALIGNMENT = 64
"""Every stored tensor starts at a multiple of this many bytes; a slice of one, at a multiple of its element size."""


@dataclass(frozen=True)
class WeightRange:
    """`length` bytes of the weight file from `offset` on; `tensor` and `graph` say whose."""

    offset: int
    length: int
    tensor: str
    graph: str

    @property
    def end(self) -> int:
        """The offset after the last byte."""
        return self.offset + self.length


def check_ranges(ranges: Iterable[WeightRange]) -> None:
    """Two ranges are apart, or one holds the other; one that no other holds is aligned.

    Raises:
        BundleError: `weight-overlap`, `weight-range`.
    """
    holders: list[WeightRange] = []
    for current in sorted(ranges, key=lambda item: (item.offset, -item.length)):
        while holders and holders[-1].end <= current.offset:
            holders.pop()
        if holders and current.end > holders[-1].end:
            raise BundleError(
                "weight-overlap",
                f"{_named(current)} and {_named(holders[-1])} overlap without one holding the other",
            )
        if not holders and current.offset % ALIGNMENT:
            raise BundleError(
                "weight-range", f"{_named(current)} starts at {current.offset}, not a multiple of {ALIGNMENT}"
            )
        holders.append(current)


def _named(item: WeightRange) -> str:
    return f"tensor {item.tensor!r} of {item.graph}"
