"""Long inputs as windows: which tokens make each, and where each token's state is taken from.

The windows are those of `ctx_runtime.segmenting.plan_segments`, for a whole padded batch at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ctx_models.config import SegmentConfig


@dataclass(frozen=True)
class Windows:
    """The windows of each row of a batch that is padded on the right; a row that fits one window has one.

    Attributes:
        indices: positions in the row, `(batch, windows, window)`.
        mask: true where a window has a token, `(batch, windows, window)`; everywhere in windows that are not there.
        present: true where a row has that window, `(batch, windows)`.
        sources: where each token's state is, among its row's windows one after another, `(batch, length)`.
    """

    indices: torch.Tensor
    mask: torch.Tensor
    present: torch.Tensor
    sources: torch.Tensor

    def take(self, values: torch.Tensor) -> torch.Tensor:
        """Values `(batch, length)` of tokens by window: `(batch * windows, window)`."""
        return values.gather(1, self.indices.flatten(1)).view(-1, self.indices.shape[2])

    def restore(self, states: torch.Tensor) -> torch.Tensor:
        """States `(batch * windows, window, hidden)` by token: `(batch, length, hidden)`."""
        rows = states.view(self.indices.shape[0], -1, states.shape[-1])
        return rows.gather(1, self.sources[..., None].expand(-1, -1, states.shape[-1]))


def plan_windows(lengths: torch.Tensor, padded: int, config: SegmentConfig) -> Windows:
    """The windows of rows with `lengths` `(batch,)` tokens, padded to `padded`.

    Each row has the fewest full windows that overlap enough, evenly spaced, each framed by the row's special tokens.
    Where two overlap, a token belongs to the one in which it has more context.
    """
    window = config.length
    excess = (lengths - window).clamp(min=0)
    gaps = -(-excess // config.step)
    index = torch.arange(int(gaps.max()) + 1, device=lengths.device)
    starts = index * excess[:, None] // gaps.clamp(min=1)[:, None]
    present = index <= gaps[:, None]
    starts = starts.where(present, 0)

    place, end = torch.arange(window, device=lengths.device), lengths[:, None, None]
    content = starts[..., None] + place
    suffix = (place >= window - config.suffix) & (end > window)
    indices = torch.where(suffix, end - window + place, content)
    indices = torch.where(place < config.prefix, place, indices)
    mask = (indices < end) | ~present[..., None]

    token = torch.arange(padded, device=lengths.device)
    owner = _owners(token.expand(len(lengths), -1) - config.prefix, starts, present, config)
    local = (token - starts.gather(1, owner)).clamp(0, window - 1)
    return Windows(indices.clamp(max=padded - 1), mask, present, owner * window + local)


def _owners(places: torch.Tensor, starts: torch.Tensor, present: torch.Tensor, config: SegmentConfig) -> torch.Tensor:
    """The window to which each content position `(batch, length)` belongs."""
    content = config.length - config.prefix - config.suffix
    earlier, later = starts[:, :-1], starts[:, 1:]
    cuts = later + torch.div(earlier + content - later + 1, 2, rounding_mode="floor")
    passed = (places[..., None] >= cuts[:, None]) & present[:, None, 1:]
    return passed.sum(-1)
