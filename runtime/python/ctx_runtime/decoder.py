"""What a resource profile and a manifest say of causal language models, which generate over a cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

DecoderForm = Literal["attention", "gqa"]
"""The form of decoder graphs: standard operators, or ONNX Runtime's `com.microsoft.GroupQueryAttention`."""
GREEDY_TOKENS = 16
"""The last tokens of a golden text, each the one that PyTorch finds most likely after those before it."""
_OPTIONAL = ("position_ids", "mask", "mask_sliding")
TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]
_Path = Annotated[str, Field(min_length=1, max_length=512)]
_Dim = int | Literal["batch", "length", "capacity"]


class DecodingSettings(BaseModel):
    """How text is generated.

    Attributes:
        chunk: tokens of a prompt that run at once, at most; what a longer prompt needs in memory does not grow.
        sinks: the first tokens, which stay when a full cache drops old ones (overflow policy `sliding`).
        reserve: tokens kept for an answer of unknown length when the bucket of a prompt is chosen.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    chunk: Annotated[int, Field(ge=1, le=1 << 16)] = 512
    sinks: Annotated[int, Field(ge=0, le=1024)] = 4
    reserve: Annotated[int, Field(ge=1, le=1 << 20)] = 256


@dataclass(frozen=True)
class StepTensor:
    """An input or output of a decoder graph."""

    name: str
    dtype: Literal["float32", "float16", "int64", "int32", "bool"]
    shape: tuple[_Dim, ...]


class DecoderRecord(DecodingSettings):
    """What the graphs of a causal language model are, and where its texts end.

    Attributes:
        form: of all graphs.
        layers: their number.
        kv_heads: heads of keys and values.
        head_size: numbers of a key or value in one head.
        cache_dtype: of the cache.
        vocab_size: tokens that logits are given for.
        sliding_window: how many tokens layers with a window look back on, their own included; None: all look on all.
        bos_token_id: what a text begins with; None: nothing.
        eos_token_ids: what ends a text.
        chat_template: a Jinja template of messages, `tokenizer/chat_template.jinja`.
    """

    form: DecoderForm
    layers: Annotated[int, Field(ge=1, le=4096)]
    kv_heads: Annotated[int, Field(ge=1, le=4096)]
    head_size: Annotated[int, Field(ge=1, le=1 << 16)]
    cache_dtype: Literal["float32", "float16"]
    vocab_size: Annotated[int, Field(ge=1, lt=1 << 31)]
    sliding_window: Annotated[int, Field(ge=1, le=1 << 24)] | None
    bos_token_id: TokenId | None
    eos_token_ids: Annotated[tuple[TokenId, ...], Field(max_length=64, strict=False)]
    chat_template: _Path | None

    @property
    def slots(self) -> Iterator[str]:
        """The names of the cache's tensors, `key.0`, `value.0`, `key.1`, … as graphs call them after `past_`."""
        return (f"{kind}.{layer}" for layer in range(self.layers) for kind in ("key", "value"))

    @property
    def inputs(self) -> tuple[StepTensor, ...]:
        """What a graph may take, the cache last."""
        tokens: tuple[_Dim, ...] = ("batch", "length")
        ids = [StepTensor(name, "int64", tokens) for name in ("input_ids", "position_ids")]
        rows = [StepTensor("last", "int64", ("batch",))]
        if self.form == "attention":
            seen: tuple[_Dim, ...] = ("batch", 1, "length", "capacity")
            rows += [StepTensor("write_indices", "int64", ("batch",)), StepTensor("mask", "bool", seen)]
            if self.sliding_window is not None:
                rows.append(StepTensor("mask_sliding", "bool", seen))
        else:
            rows += [StepTensor("seqlens_k", "int32", ("batch",)), StepTensor("total_sequence_length", "int32", (1,))]
        return (*ids, *rows, *self._cache("past"))

    @property
    def required(self) -> tuple[str, ...]:
        """The names of the inputs that every graph takes: a model may count positions itself, or look at all slots."""
        return tuple(tensor.name for tensor in self.inputs if tensor.name not in _OPTIONAL)

    @property
    def outputs(self) -> tuple[StepTensor, ...]:
        """What a graph gives: the logits of each row's last token, and the cache."""
        return (StepTensor("logits", "float32", ("batch", self.vocab_size)), *self._cache("present"))

    def cache_bytes(self, *, batch: int, capacity: int) -> int:
        """Bytes of the cache for `batch` rows of `capacity` tokens."""
        itemsize = 4 if self.cache_dtype == "float32" else 2
        return 2 * self.layers * batch * self.kv_heads * capacity * self.head_size * itemsize

    def _cache(self, when: str) -> tuple[StepTensor, ...]:
        shape: tuple[_Dim, ...] = ("batch", self.kv_heads, "capacity", self.head_size)
        return tuple(StepTensor(f"{when}_{slot}", self.cache_dtype, shape) for slot in self.slots)
