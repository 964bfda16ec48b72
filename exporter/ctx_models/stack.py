"""A stack of layers that runs whole or in part, with its positions and its last norm."""

from __future__ import annotations

import torch
from torch import nn

from ctx_models import markers
from ctx_models.config import AdaptiveConfig
from ctx_models.errors import ModelError
from ctx_models.layers import Layer, Memory
from ctx_models.rotary import Rotary
from ctx_models.subnetwork import SubNetwork


def resolve(subnetwork: SubNetwork | None, config: AdaptiveConfig) -> SubNetwork:
    """The sub-network with a number for each None.

    Raises:
        ModelError: the model has no such sub-network, or an export asks for less than the whole.
    """
    if subnetwork is not None and torch.compiler.is_exporting():
        raise ModelError("a model is exported whole", hint="cut the graph at its markers; see ctx_models.markers")
    return (subnetwork or SubNetwork()).resolve(config)


class Stack(nn.Module):
    """Layers, and a norm where the layers have none at their end: an encoder or a decoder, without embeddings."""

    def __init__(self, config: AdaptiveConfig, layers: int, *, causal: bool = False, cross: bool = False) -> None:
        super().__init__()
        self.rotary = Rotary(config) if config.positions == "rotary" else None
        self.layers = nn.ModuleList(Layer(config, causal=causal, cross=cross) for _ in range(layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if config.norm == "pre" else None

    def forward(
        self,
        states: torch.Tensor,
        part: SubNetwork,
        *,
        mask: torch.Tensor | None = None,
        memory: Memory | None = None,
    ) -> torch.Tensor:
        """Embedded tokens `(batch, length, hidden)` to final states of the same shape.

        Args:
            states: what enters the first layer.
            part: the sub-network.
            mask: true where a position may be seen, broadcast to `(batch, heads, length, length)`; None: everywhere.
            memory: what cross-attention sees.
        """
        rotation = self.rotary(states.shape[1], part.position_resolution) if self.rotary else None
        for index, layer in enumerate(self.layers[: part.layers], start=1):
            states = layer(states, part, mask=mask, rotation=rotation, memory=memory)
            states = markers.exit_after(states, index)
        if self.norm is not None:
            states = self.norm(states)
        return states
