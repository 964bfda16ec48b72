"""Segments that see each other: summaries of each, a stack of levels over them, and the way back to the tokens."""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

from ctx_models.config import AdaptiveConfig, SegmentConfig
from ctx_models.layers import Attention, Layer
from ctx_models.rotary import rotate, scaled_inv_freq
from ctx_models.subnetwork import SubNetwork


def pool(states: torch.Tensor, mask: torch.Tensor | None, config: AdaptiveConfig) -> torch.Tensor:
    """What stands for each segment, `(batch, hidden)`.

    Args:
        states: of the last layer, `(batch, length, hidden)`.
        mask: true where they are no padding, `(batch, length)`; None: everywhere.
        config: says what that is.
    """
    if config.pooling == "cls":
        return states[:, 0]
    if mask is None:
        return states.mean(dim=1)
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-9)


class Fusion(nn.Module):
    """Fuses the segments of documents.

    A segment's summary is `1 + summaries` rows: what stands for the whole segment (`pool`), and what learned queries
    see in its final states. Sub-networks take the first heads and feed-forward units of it, and always every level.
    """

    def __init__(self, config: AdaptiveConfig, segment: SegmentConfig) -> None:
        super().__init__()
        own = dataclasses.replace(config, norm="pre", positions="rotary", segment=None)
        hidden = config.hidden_size
        self.config, self.band = config, segment.band
        self.queries = nn.Parameter(torch.randn(segment.summaries, hidden) / hidden**0.5)
        self.summariser = Attention(own)
        self.levels = nn.ModuleList(Layer(own) for _ in range(segment.layers))
        self.norm = nn.LayerNorm(hidden, eps=config.layer_norm_eps)
        self.reader = Attention(own)
        self.mixer = nn.Sequential(nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, hidden))
        self.reader_norm = nn.LayerNorm(hidden, eps=config.layer_norm_eps)
        self.mixer_norm = nn.LayerNorm(hidden, eps=config.layer_norm_eps)
        self.reader_gate = nn.Parameter(torch.ones(hidden))
        self.mixer_gate = nn.Parameter(torch.ones(hidden))
        self.document_gate = nn.Parameter(torch.ones(hidden))
        self.inv_freq: torch.Tensor
        self.register_buffer("inv_freq", scaled_inv_freq(own)[0], persistent=False)

    @torch.no_grad()
    def close(self) -> None:
        """Let nothing through until training opens the gates: a pretrained model's answers stay what they are."""
        for gate in (self.reader_gate, self.mixer_gate, self.document_gate):
            gate.zero_()

    def summarise(self, hidden: torch.Tensor, mask: torch.Tensor | None, part: SubNetwork) -> torch.Tensor:
        """Final states `(segments, window, hidden)` to summaries `(segments, 1 + summaries, hidden)`.

        Args:
            hidden: of the last layer.
            mask: true where they are no padding, `(segments, window)`; None: everywhere.
            part: the sub-network.
        """
        queries = self.queries.expand(hidden.shape[0], -1, -1)
        keys = None if mask is None else mask[:, None, None, :]
        seen = self.summariser(queries, hidden, heads=part.heads, mask=keys)
        return torch.cat([pool(hidden, mask, self.config)[:, None], queries + seen], dim=1)

    def fuse(self, summary: torch.Tensor, present: torch.Tensor | None, part: SubNetwork) -> torch.Tensor:
        """Summaries `(documents, segments, rows, hidden)` to contexts of the same shape.

        Even levels: the rows of a segment see those of neighbours within the band. Odd levels: the mean of each
        segment's rows sees those of all segments, and what it learns is added to each of the rows.

        Args:
            summary: of each segment.
            present: true where a document has that segment, `(documents, segments)`; None: everywhere.
            part: the sub-network.
        """
        index, single = torch.arange(summary.shape[1], device=summary.device), summary.shape[1] == 1
        for level, layer in enumerate(self.levels):
            if level % 2:
                means = summary.mean(dim=2)
                update = layer(means, part, mask=_all_to_all(present), rotation=rotate(index, self.inv_freq)) - means
                summary = summary + update[:, :, None]
            else:
                rows = index[:, None].expand(-1, summary.shape[2]).flatten()
                flat, mask = summary.flatten(1, 2), None if single else _banded(rows, self.band, present)
                flat = layer(flat, part, mask=mask, rotation=rotate(rows, self.inv_freq))
                summary = flat.view(summary.shape)
        context: torch.Tensor = self.norm(summary)
        return context

    def finish(self, hidden: torch.Tensor, context: torch.Tensor, part: SubNetwork) -> torch.Tensor:
        """Give tokens `(segments, window, hidden)` the context `(segments, rows, hidden)` of their own segment.

        Both updates are gated, width by width.
        """
        seen = self.reader(self.reader_norm(hidden), context, heads=part.heads)
        hidden = hidden + self.reader_gate * seen
        mixed: torch.Tensor = hidden + self.mixer_gate * self.mixer(self.mixer_norm(hidden))
        return mixed

    def document(self, summary: torch.Tensor, context: torch.Tensor, present: torch.Tensor | None) -> torch.Tensor:
        """What stands for whole documents, `(documents, hidden)`: the mean over segments, and, gated, that of contexts.

        Tokens in an overlap of segments count in both.
        """
        return _mean(summary[:, :, 0], present) + self.document_gate * _mean(context.mean(dim=2), present)


def _mean(rows: torch.Tensor, present: torch.Tensor | None) -> torch.Tensor:
    """The mean over segments, `(documents, segments, hidden)` to `(documents, hidden)`."""
    if present is None:
        return rows.mean(dim=1)
    weights = present.unsqueeze(-1).to(rows.dtype)
    return (rows * weights).sum(dim=1) / weights.sum(dim=1)


def _all_to_all(present: torch.Tensor | None) -> torch.Tensor | None:
    """Which segment sees which, `(documents, 1, 1, segments)`: those that are there."""
    return None if present is None else present[:, None, None, :]


def _banded(segments: torch.Tensor, band: int, present: torch.Tensor | None) -> torch.Tensor:
    """Which row sees which, `(documents or 1, 1, rows, rows)`, from the segment of each row `(rows,)`.

    Rows of segments that are not there see each other, so that no row sees nothing.
    """
    near = (segments[:, None] - segments[None, :]).abs() <= band
    if present is None:
        return near[None, None]
    there = present[:, segments]
    return (near & (there[:, :, None] == there[:, None, :]))[:, None]
