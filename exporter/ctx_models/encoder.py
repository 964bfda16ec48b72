"""The length-adaptive encoder: short inputs in one piece, long ones in segments that see each other."""

from __future__ import annotations

import torch
from torch import nn

from ctx_models.config import AdaptiveConfig
from ctx_models.embeddings import Embeddings
from ctx_models.errors import ModelError
from ctx_models.fusion import Fusion, pool
from ctx_models.layers import initialise
from ctx_models.segments import Windows, plan_windows
from ctx_models.stack import Stack, resolve
from ctx_models.subnetwork import SubNetwork


class LengthAdaptiveEncoder(nn.Module):
    """A bidirectional Transformer that runs whole or in part.

    An input longer than `config.segment.length` runs as segments of that length, each for itself, with positions that
    start anew; the fusion lets them see each other. A shorter one is a document of one segment: the same function.

    Args:
        config: its shape; new weights are drawn from torch's generator.
    """

    def __init__(self, config: AdaptiveConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.stack = Stack(config, config.num_layers)
        self.fusion = Fusion(config, config.segment) if config.segment else None
        initialise(self, config.num_layers)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        *,
        subnetwork: SubNetwork | None = None,
    ) -> torch.Tensor:
        """The final state of each token, `(batch, length, hidden)`.

        Args:
            input_ids: token ids `(batch, length)`, padded on the right.
            attention_mask: 1 for tokens, 0 for padding, `(batch, length)`; None: there is no padding.
            token_type_ids: `(batch, length)`, for models that have types.
            subnetwork: the part that runs; None: all of it.

        Raises:
            ModelError: the model has no such sub-network, no types, or takes no input of that length.
        """
        hidden, summary, windows = self._run_segments(input_ids, attention_mask, token_type_ids, subnetwork)
        context = self.fuse(summary, windows.present if windows else None, subnetwork=subnetwork)
        hidden = self.finish(hidden, context.flatten(0, 1), subnetwork=subnetwork)
        return windows.restore(hidden) if windows else hidden

    def encode_documents(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        *,
        subnetwork: SubNetwork | None = None,
    ) -> torch.Tensor:
        """What stands for each whole input, `(batch, hidden)`, from the summaries of its segments; see `forward`."""
        _, summary, windows = self._run_segments(input_ids, attention_mask, token_type_ids, subnetwork)
        present = windows.present if windows else None
        return self.document(summary, self.fuse(summary, present, subnetwork=subnetwork), present)

    def segment(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        *,
        subnetwork: SubNetwork | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Segments, each for itself: states `(segments, window, hidden)` and summaries `(segments, rows, hidden)`.

        A summary has `1 + config.segment.summaries` rows, or 1 in a model without segments.
        """
        part = resolve(subnetwork, self.config)
        mask = None if attention_mask is None else attention_mask.to(torch.bool)
        keys = None if mask is None else mask[:, None, None, :]
        hidden = self.stack(self.embeddings(input_ids, token_type_ids), part, mask=keys)
        if self.fusion is None:
            return hidden, pool(hidden, mask, self.config)[:, None]
        return hidden, self.fusion.summarise(hidden, mask, part)

    def fuse(
        self, summary: torch.Tensor, present: torch.Tensor | None = None, *, subnetwork: SubNetwork | None = None
    ) -> torch.Tensor:
        """Summaries `(documents, segments, rows, hidden)` to contexts of the same shape.

        Args:
            summary: of each segment of each document.
            present: true where a document has that segment, `(documents, segments)`; None: everywhere.
            subnetwork: the part that runs.
        """
        if self.fusion is None:
            return summary
        return self.fusion.fuse(summary, present, resolve(subnetwork, self.config))

    def finish(
        self, hidden: torch.Tensor, context: torch.Tensor, *, subnetwork: SubNetwork | None = None
    ) -> torch.Tensor:
        """States `(segments, window, hidden)` that know the context `(segments, rows, hidden)` of their segment."""
        if self.fusion is None:
            return hidden
        return self.fusion.finish(hidden, context, resolve(subnetwork, self.config))

    def document(
        self, summary: torch.Tensor, context: torch.Tensor, present: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Summaries and contexts `(documents, segments, rows, hidden)` to one row a document, `(documents, hidden)`."""
        if self.fusion is None:
            return summary[:, 0, 0]
        return self.fusion.document(summary, context, present)

    def _run_segments(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        token_type_ids: torch.Tensor | None,
        subnetwork: SubNetwork | None,
    ) -> tuple[torch.Tensor, torch.Tensor, Windows | None]:
        """States by segment, summaries by document and segment, and the windows of inputs longer than one."""
        length, segment = input_ids.shape[1], self.config.segment
        if length <= self.config.window:
            hidden, summary = self.segment(input_ids, attention_mask, token_type_ids, subnetwork=subnetwork)
            return hidden, summary[:, None], None
        if segment is None:
            raise ModelError(
                f"an input of {length} tokens is longer than the model takes, {self.config.max_length}",
                hint="give the model segments, or cut the input",
            )
        lengths = input_ids.new_full(input_ids.shape[:1], length) if attention_mask is None else attention_mask.sum(1)
        windows = plan_windows(lengths, length, segment)
        types = None if token_type_ids is None else windows.take(token_type_ids)
        hidden, summary = self.segment(
            windows.take(input_ids), windows.mask.flatten(0, 1), types, subnetwork=subnetwork
        )
        return hidden, summary.view(*windows.present.shape, *summary.shape[1:]), windows
