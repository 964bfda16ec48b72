"""The shape of a length-adaptive model: everything that its weights' shapes and its answers depend on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_type_hints

from ctx_models.errors import ModelError

Architecture = Literal["encoder", "decoder", "seq2seq"]
Positions = Literal["rotary", "learned"]
Norm = Literal["pre", "post"]
Activation = Literal["gelu", "gelu_tanh", "relu", "silu"]
Pooling = Literal["mean", "cls"]


@dataclass(frozen=True)
class SegmentConfig:
    """How inputs longer than a segment are cut, and how segments see each other.

    Attributes:
        length: tokens of a segment, special tokens included.
        overlap: content tokens that neighbouring segments share at least.
        summaries: learned summaries of a segment.
        layers: levels of the fusion stack: banded, all-to-all, banded, …
        band: on a banded level, a segment sees as many neighbours to each side.
        prefix: special tokens at the beginning of an input, repeated at the beginning of each segment.
        suffix: special tokens at its end, repeated at the end of each segment.
    """

    length: int
    overlap: int = 0
    summaries: int = 4
    layers: int = 2
    band: int = 2
    prefix: int = 0
    suffix: int = 0

    def __post_init__(self) -> None:
        _require_positive(self, "length", "summaries", "layers", "band")
        if min(self.overlap, self.prefix, self.suffix) < 0 or self.step < 1:
            raise ModelError(
                f"segments of {self.length} tokens with {self.prefix} + {self.suffix} special ones and an overlap of "
                f"{self.overlap} have no tokens of their own",
                hint="make the segments longer or the overlap smaller",
            )

    @property
    def step(self) -> int:
        """Content tokens from the start of a segment to the start of the next, at most."""
        return self.length - self.prefix - self.suffix - self.overlap


@dataclass(frozen=True)
class AdaptiveConfig:
    """The whole network; a sub-network is a part of it.

    Attributes:
        num_layers: layers of the encoder or, in a decoder-only model, the decoder.
        num_decoder_layers: layers of the decoder of an encoder-decoder.
        head_size: width of one head; even where positions are rotary.
        ffn_size: inner width of the feed-forward networks.
        max_length: tokens of the longest input, or of the longest that is not cut into segments.
        positions: rotary, or a learned table of `max_length` rows.
        norm: before each block (with one more at the end), or after it (with one more at the beginning).
        type_vocab_size: token types; 0 for a model without them.
        pooling: what stands for a whole segment: the mean of its tokens, or its first token.
        segment: how long inputs are cut; None for a model that takes no input longer than `max_length`.
    """

    architecture: Architecture
    vocab_size: int
    hidden_size: int = 384
    num_layers: int = 6
    num_heads: int = 12
    head_size: int = 32
    ffn_size: int = 1536
    max_length: int = 512
    dropout: float = 0.1
    positions: Positions = "rotary"
    rope_theta: float = 10000.0
    norm: Norm = "pre"
    activation: Activation = "gelu"
    layer_norm_eps: float = 1e-12
    type_vocab_size: int = 0
    pad_id: int = 0
    pooling: Pooling = "mean"
    segment: SegmentConfig | None = None
    num_decoder_layers: int = 0

    def __post_init__(self) -> None:
        _require_positive(
            self, "vocab_size", "hidden_size", "num_layers", "num_heads", "head_size", "ffn_size", "max_length"
        )
        _check_words(self)
        if self.positions == "rotary" and self.head_size % 2:
            raise ModelError(f"rotary positions need an even head_size, not {self.head_size}")
        if not 0 <= self.dropout < 1:
            raise ModelError(f"dropout is a probability below 1, not {self.dropout}")
        if (self.num_decoder_layers > 0) != (self.architecture == "seq2seq"):
            raise ModelError("num_decoder_layers is for encoder-decoders, which need at least 1")
        if self.segment and self.segment.length > self.max_length:
            raise ModelError(
                f"segments of {self.segment.length} tokens are longer than max_length, {self.max_length}",
                hint="max_length is the longest input that is not cut",
            )
        if self.segment and self.architecture == "decoder":
            raise ModelError("a causal model has no segments", hint="leave segment out, or take an encoder")

    @property
    def window(self) -> int:
        """The longest span of positions that the layers see, in tokens."""
        return self.segment.length if self.segment else self.max_length

    @property
    def longest_input(self) -> int | None:
        """The longest input that the model takes, in tokens; None: any, in segments."""
        return None if self.segment else self.max_length

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> AdaptiveConfig:
        """What `to_json` gave.

        Raises:
            ModelError: an unknown, missing or impossible value.
        """
        settings = dict(values)
        try:
            if settings.get("segment") is not None:
                settings["segment"] = SegmentConfig(**settings["segment"])
            return cls(**settings)
        except TypeError as error:
            raise ModelError(f"the configuration is not sound: {error}") from error


def _require_positive(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int) or value < 1:
            raise ModelError(f"{name} is a whole number of at least 1, not {value!r}")


def _check_words(config: AdaptiveConfig) -> None:
    """Refuse a word that a field of words does not have."""
    for name, kind in get_type_hints(AdaptiveConfig).items():
        words, value = get_args(kind), getattr(config, name)
        if words and all(isinstance(word, str) for word in words) and value not in words:
            raise ModelError(f"{name} is one of {', '.join(words)}, not {value!r}")
