"""The blocks of every length-adaptive model: attention, feed-forward network, layer; whole or in part.

What a sub-network takes of a weight is a prefix of its rows, one contiguous range of bytes: queries, keys, values and
the feed-forward network's inner units are rows of weights stored `(out, in)`, as `nn.Linear` does; the projections
back to the model's width are stored `(in, out)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from ctx_models import markers
from ctx_models.config import Activation, AdaptiveConfig
from ctx_models.rotary import Rotation
from ctx_models.subnetwork import SubNetwork

_ACTIVATIONS: dict[Activation, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": functional.gelu,
    "gelu_tanh": lambda states: functional.gelu(states, approximate="tanh"),
    "relu": functional.relu,
    "silu": functional.silu,
}


def effective_weight(module: nn.Module) -> torch.Tensor:
    """The weight of a linear module, with what the active adapters of `peft` add where it is wrapped by them.

    Reading it, rather than calling the module, lets a sub-network take a part of an adapted weight.
    """
    base = getattr(module, "base_layer", None)
    if base is None:
        return module.weight  # type: ignore[return-value]
    weight = effective_weight(base)
    if not module.merged and not module.disable_adapters:
        for adapter in module.active_adapters:  # type: ignore[union-attr]
            if adapter in module.lora_A:  # type: ignore[operator]
                weight = weight + module.get_delta_weight(adapter)  # type: ignore[operator]
    return weight


class TransposedLinear(nn.Linear):
    """`x @ weight + bias` with a weight `(inputs, outputs)`; the base class sees a linear layer of that shape."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(outputs, inputs, bias=False)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """`(…, inputs)` to `(…, outputs)`."""
        return states @ self.weight + self.bias


def _first(tensor: torch.Tensor, count: int | None, kind: markers.AxisKind, unit: int) -> torch.Tensor:
    """The rows of the first `count` heads or units, a view; in an export all of them, marked."""
    if torch.compiler.is_exporting():
        return markers.elastic(tensor, kind, unit)
    return tensor if count is None else tensor[: count * unit]


def _into(
    states: torch.Tensor, module: nn.Linear, count: int | None, kind: markers.AxisKind, unit: int
) -> torch.Tensor:
    """Project `(…, hidden)` to the first `count` heads or units of a linear layer: `(…, count * unit)`."""
    weight, bias = effective_weight(module), module.bias
    return functional.linear(states, _first(weight, count, kind, unit), _first(bias, count, kind, unit))


def _back(
    states: torch.Tensor, module: nn.Linear, count: int | None, kind: markers.AxisKind, unit: int
) -> torch.Tensor:
    """Project the first `count` heads or units `(…, count * unit)` back to `(…, hidden)`."""
    return states @ _first(effective_weight(module), count, kind, unit) + module.bias


class Attention(nn.Module):
    """Multi-head attention of one sequence to another or to itself."""

    def __init__(self, config: AdaptiveConfig) -> None:
        super().__init__()
        self.head_size, self.dropout = config.head_size, config.dropout
        width = config.num_heads * config.head_size
        self.query = nn.Linear(config.hidden_size, width)
        self.key = nn.Linear(config.hidden_size, width)
        self.value = nn.Linear(config.hidden_size, width)
        self.output = TransposedLinear(width, config.hidden_size)

    def forward(
        self,
        states: torch.Tensor,
        source: torch.Tensor,
        *,
        heads: int | None,
        mask: torch.Tensor | None = None,
        rotation: Rotation | None = None,
        causal: bool = False,
    ) -> torch.Tensor:
        """What `states` `(batch, length, hidden)` see in `source` `(batch, source length, hidden)`.

        Args:
            states: make the queries.
            source: makes the keys and values.
            heads: only the first heads; None: all.
            mask: true where a query may see a key, broadcast to `(batch, heads, length, source length)`.
            rotation: of both sequences' positions.
            causal: no position sees a later one.
        """
        inner = self.inner(states, source, heads=heads, mask=mask, rotation=rotation, causal=causal)
        return _back(inner, self.output, heads, "heads", self.head_size)

    def inner(
        self,
        states: torch.Tensor,
        source: torch.Tensor,
        *,
        heads: int | None,
        mask: torch.Tensor | None = None,
        rotation: Rotation | None = None,
        causal: bool = False,
    ) -> torch.Tensor:
        """What each head sees, side by side: `(batch, length, heads * head_size)`; see `forward` for the arguments."""
        query, key, value = (
            self._split(_into(x, module, heads, "heads", self.head_size))
            for x, module in ((states, self.query), (source, self.key), (source, self.value))
        )
        if rotation is not None:
            query, key = rotation(query), rotation(key)
        dropout = self.dropout if self.training else 0.0
        if mask is not None:  # ONNX Runtime's Attention wants a row for each query
            mask = mask.expand(-1, -1, states.shape[1], -1)
        mixed = functional.scaled_dot_product_attention(query, key, value, mask, dropout_p=dropout, is_causal=causal)
        return mixed.transpose(1, 2).contiguous().view(states.shape[0], states.shape[1], -1)

    def _split(self, states: torch.Tensor) -> torch.Tensor:
        """`(batch, length, heads * head_size)` to `(batch, heads, length, head_size)`."""
        return states.view(states.shape[0], states.shape[1], -1, self.head_size).transpose(1, 2)


class FeedForward(nn.Module):
    """Two linear layers around an activation, position by position."""

    def __init__(self, config: AdaptiveConfig) -> None:
        super().__init__()
        self.activation = _ACTIVATIONS[config.activation]
        self.up = nn.Linear(config.hidden_size, config.ffn_size)
        self.down = TransposedLinear(config.ffn_size, config.hidden_size)

    def forward(self, states: torch.Tensor, ffn: int | None) -> torch.Tensor:
        """`(batch, length, hidden)` to the same, with the first `ffn` inner units."""
        return _back(self.inner(states, ffn), self.down, ffn, "ffn", 1)

    def inner(self, states: torch.Tensor, ffn: int | None) -> torch.Tensor:
        """The activations of the first `ffn` inner units, `(batch, length, units)`."""
        return self.activation(_into(states, self.up, ffn, "ffn", 1))


class Residual(nn.Module):
    """A block beside its input, with the norm before the block or after the sum."""

    def __init__(self, config: AdaptiveConfig) -> None:
        super().__init__()
        self.pre = config.norm == "pre"
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, states: torch.Tensor, block: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """`(batch, length, hidden)` to the same."""
        if self.pre:
            added: torch.Tensor = states + self.dropout(block(self.norm(states)))
            return added
        normed: torch.Tensor = self.norm(states + self.dropout(block(states)))
        return normed


@dataclass(frozen=True)
class Memory:
    """What a decoder's cross-attention sees.

    Attributes:
        states: an encoder's `(batch, source length, hidden)`.
        mask: true where they are no padding, `(batch, 1, 1, source length)`; None: everywhere.
    """

    states: torch.Tensor
    mask: torch.Tensor | None = None


class Layer(nn.Module):
    """Self-attention, cross-attention if it is a layer of an encoder-decoder's decoder, feed-forward network."""

    def __init__(self, config: AdaptiveConfig, *, causal: bool = False, cross: bool = False) -> None:
        super().__init__()
        self.causal = causal
        self.attention, self.attention_residual = Attention(config), Residual(config)
        if cross:
            self.cross_attention, self.cross_residual = Attention(config), Residual(config)
        self.ffn, self.ffn_residual = FeedForward(config), Residual(config)

    def forward(
        self,
        states: torch.Tensor,
        part: SubNetwork,
        *,
        mask: torch.Tensor | None = None,
        rotation: Rotation | None = None,
        memory: Memory | None = None,
    ) -> torch.Tensor:
        """`(batch, length, hidden)` to the same; `mask` is true where a position may see another."""
        states = self.attention_residual(
            states,
            lambda x: self.attention(x, x, heads=part.heads, mask=mask, rotation=rotation, causal=self.causal),
        )
        if memory is not None:
            states = self.cross_residual(
                states, lambda x: self.cross_attention(x, memory.states, heads=part.heads, mask=memory.mask)
            )
        updated: torch.Tensor = self.ffn_residual(states, lambda x: self.ffn(x, part.ffn))
        return updated


def initialise(model: nn.Module, layers: int) -> None:
    """Draw the weights of a new model of so many layers.

    Weights are normal with variance 1 / inputs. Those that add to the residual stream are scaled by 1 / sqrt(2 layers),
    so that the stream's variance does not grow with the depth (Radford et al., Language Models are Unsupervised
    Multitask Learners, 2019). Biases are zero, norms the identity.
    """
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.reset_parameters()
        elif isinstance(module, TransposedLinear):
            nn.init.normal_(module.weight, std=1 / math.sqrt(2 * layers * module.weight.shape[0]))
            nn.init.zeros_(module.bias)
        elif isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=1 / math.sqrt(module.weight.shape[1]))
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
