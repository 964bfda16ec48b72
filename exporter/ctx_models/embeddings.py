"""Token ids to the states that enter the first layer."""

from __future__ import annotations

import torch
from torch import nn

from ctx_models.config import AdaptiveConfig
from ctx_models.errors import ModelError


class Embeddings(nn.Module):
    """The sum of a token's embedding, its type's and, where positions are learned, its position's."""

    def __init__(self, config: AdaptiveConfig) -> None:
        super().__init__()
        self.tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.types = nn.Embedding(config.type_vocab_size, config.hidden_size) if config.type_vocab_size else None
        learned = config.positions == "learned"
        self.positions = nn.Embedding(config.max_length, config.hidden_size) if learned else None
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if config.norm == "post" else None
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, input_ids: torch.Tensor, token_type_ids: torch.Tensor | None = None) -> torch.Tensor:
        """Ids and types `(batch, length)` to states `(batch, length, hidden)`; without types, all are of type 0.

        Raises:
            ModelError: types for a model without them.
        """
        states: torch.Tensor = self.tokens(input_ids)
        if self.types is not None:
            states = states + (self.types.weight[0] if token_type_ids is None else self.types(token_type_ids))
        elif token_type_ids is not None:
            raise ModelError("this model has no token types", hint="leave token_type_ids out")
        if self.positions is not None:
            states = states + self.positions.weight[: input_ids.shape[1]]
        if self.norm is not None:
            states = self.norm(states)
        dropped: torch.Tensor = self.dropout(states)
        return dropped
