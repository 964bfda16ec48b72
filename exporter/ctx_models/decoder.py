"""The length-adaptive decoder: a causal Transformer."""

from __future__ import annotations

import torch
from torch import nn

from ctx_models.config import AdaptiveConfig
from ctx_models.embeddings import Embeddings
from ctx_models.errors import ModelError
from ctx_models.layers import initialise
from ctx_models.stack import Stack, resolve
from ctx_models.subnetwork import SubNetwork


class LengthAdaptiveDecoder(nn.Module):
    """A causal Transformer that runs whole or in part.

    Args:
        config: its shape; new weights are drawn from torch's generator.
    """

    def __init__(self, config: AdaptiveConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.stack = Stack(config, config.num_layers, causal=True)
        initialise(self, config.num_layers)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        *,
        subnetwork: SubNetwork | None = None,
    ) -> torch.Tensor:
        """The final state of each token, `(batch, length, hidden)`, which depends on no later one.

        Padding on the right comes after every token, and no token sees it: `attention_mask` changes no token's state,
        and is not read.

        Raises:
            ModelError: the model has no such sub-network, or takes no input of that length.
        """
        if input_ids.shape[1] > self.config.max_length:
            raise ModelError(
                f"an input of {input_ids.shape[1]} tokens is longer than the model takes, {self.config.max_length}",
                hint="cut the input",
            )
        part, embedded = resolve(subnetwork, self.config), self.embeddings(input_ids, token_type_ids)
        states: torch.Tensor = self.stack(embedded, part)
        return states
