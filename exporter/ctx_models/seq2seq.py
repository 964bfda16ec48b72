"""The length-adaptive encoder-decoder."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ctx_models.config import AdaptiveConfig
from ctx_models.encoder import LengthAdaptiveEncoder
from ctx_models.errors import ModelError
from ctx_models.layers import Memory, initialise
from ctx_models.stack import Stack, resolve
from ctx_models.subnetwork import SubNetwork

_NAMES = {
    "d_model": "hidden_size",
    "nhead": "num_heads",
    "num_encoder_layers": "num_layers",
    "num_decoder_layers": "num_decoder_layers",
    "dim_feedforward": "ffn_size",
    "dropout": "dropout",
}
"""The arguments of `torch.nn.Transformer` by our names."""


class LengthAdaptiveSeq2Seq(nn.Module):
    """A Transformer that reads one sequence and writes another, whole or in part.

    The encoder is a `LengthAdaptiveEncoder`: with segments, sources may be longer than one. Both sides and the output
    share one table of token embeddings. A sub-network takes the first layers of each side.

    Args:
        d_model: width of the network.
        nhead: heads of every attention.
        num_encoder_layers: layers that read.
        num_decoder_layers: layers that write.
        dim_feedforward: inner width of the feed-forward networks.
        dropout: probability of dropping a value in training.
        settings: other fields of `AdaptiveConfig`; `vocab_size` is needed. `head_size` is `d_model / nhead` unless
            given.

    Raises:
        ModelError: an impossible or unknown setting.
    """

    def __init__(
        self,
        d_model: int = 512,
        nhead: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        **settings: Any,  # noqa: ANN401 (AdaptiveConfig checks them)
    ) -> None:
        super().__init__()
        shape = {
            "architecture": "seq2seq",
            "hidden_size": d_model,
            "num_heads": nhead,
            "head_size": d_model // nhead,
            "num_layers": num_encoder_layers,
            "num_decoder_layers": num_decoder_layers,
            "ffn_size": dim_feedforward,
            "dropout": dropout,
        }
        try:
            self.config = config = AdaptiveConfig(**{**shape, **settings})
        except TypeError as error:
            raise ModelError(f"no encoder-decoder with these settings: {error}") from error
        self.encoder = LengthAdaptiveEncoder(config)
        self.decoder = Stack(config, num_decoder_layers, causal=True, cross=True)
        initialise(self.decoder, num_decoder_layers)

    @classmethod
    def from_config(cls, config: AdaptiveConfig) -> LengthAdaptiveSeq2Seq:
        """A new model of that shape."""
        settings = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
        return cls(**{name: settings.pop(field) for name, field in _NAMES.items()}, **settings)

    def forward(
        self,
        input_ids: torch.Tensor,
        decoder_input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *,
        subnetwork: SubNetwork | None = None,
    ) -> torch.Tensor:
        """The logits of each next token, `(batch, target length, vocabulary)`.

        Args:
            input_ids: the source, `(batch, source length)`, padded on the right.
            decoder_input_ids: what is written so far, `(batch, target length)`, padded on the right; no token sees a
                later one.
            attention_mask: 1 for tokens of the source, 0 for padding; None: there is no padding.
            subnetwork: the part that runs; None: all of it.

        Raises:
            ModelError: the model has no such sub-network, or takes no source or target of that length.
        """
        memory = self.encoder(input_ids, attention_mask, subnetwork=subnetwork)
        return self.decode(decoder_input_ids, memory, attention_mask, subnetwork=subnetwork)

    def decode(
        self,
        decoder_input_ids: torch.Tensor,
        memory: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *,
        subnetwork: SubNetwork | None = None,
    ) -> torch.Tensor:
        """The logits as `forward` gives them, of what the encoder made: `memory` `(batch, source length, hidden)`."""
        if decoder_input_ids.shape[1] > self.config.max_length:
            raise ModelError(
                f"a target of {decoder_input_ids.shape[1]} tokens is longer than the model takes, "
                f"{self.config.max_length}",
                hint="cut the target",
            )
        keys = None if attention_mask is None else attention_mask.to(torch.bool)[:, None, None, :]
        part, embeddings = resolve(subnetwork, self.config), self.encoder.embeddings
        states = self.decoder(embeddings(decoder_input_ids), part, memory=Memory(memory, keys))
        return functional.linear(states, embeddings.tokens.weight)
