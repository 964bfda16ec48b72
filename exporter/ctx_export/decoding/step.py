"""One step of a causal language model as it is traced: a cache of fixed capacity, and attention over it.

A step takes the tokens of a prompt, of a chunk of it, or the one that was generated last; the graph is the same. What
a row may look at is said by a mask from outside, which is right on every backend: ONNX Runtime and TensorRT disagree
on what `is_causal` and `nonpad_kv_seqlen` mean for a cache that is not full.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ctx_runtime.errors import ExportError

OPSET = 24
"""The first opset with TensorScatter."""
ATTENTION = "ctx_export"
"""The attention implementation's name in transformers, which makes no mask for a name that it does not know."""
WINDOW = "ctx_export.window"
"""The metadata of an Attention node that says how many tokens its layer looks back on, itself included; 0: all."""
_WITHOUT_EFFECT = frozenset({
    "dropout", "position_ids", "cache_position", "use_cache", "output_attentions", "output_hidden_states",
    "output_router_logits", "return_dict", "logits_to_keep",
})  # fmt: skip
"""Arguments of an attention function that change nothing here: a model in eval mode, with a mask of its own."""


@dataclass
class Step:
    """The tensors of one step that all layers share.

    Attributes:
        write_indices: the slot of each row's first new token, `(batch,)`.
        mask: True where a new token may look at a slot, `(batch, 1, length, capacity)`.
        mask_sliding: the same for the layers with a sliding window.
    """

    write_indices: torch.Tensor
    mask: torch.Tensor
    mask_sliding: torch.Tensor

    def attend(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        *,
        scaling: float | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        is_causal: bool | None = None,
        **others: Any,  # noqa: ANN401 (transformers has no types)
    ) -> tuple[torch.Tensor, None]:
        """Attention of `query` `(batch, heads, length, head_size)` over `(batch, kv_heads, capacity, head_size)`.

        Returns `(batch, length, heads, head_size)`, as transformers' attention functions do.

        Raises:
            ExportError: the layer asks for more than the operator does: sinks, a bias of positions, two directions.
        """
        unknown = {name for name, given in others.items() if given is not None} - _WITHOUT_EFFECT
        if unknown or attention_mask is not None or is_causal is False:
            asked = ", ".join(sorted(unknown)) or "a mask of its own"
            raise ExportError(
                f"attention in {type(module).__name__} with {asked} can't be exported",
                hint="`ctx-export` exports attention with grouped heads, sliding windows and soft-capped scores",
            )
        given = {"scale": scaling, "softcap": softcap}
        output = torch.onnx.ops.symbolic(
            "Attention",
            (query, key, value, self.mask if sliding_window is None else self.mask_sliding),
            {name: float(number) for name, number in given.items() if number is not None},
            dtype=query.dtype,
            shape=query.shape,
            version=OPSET,
            metadata_props={WINDOW: str(sliding_window or 0)},
        )
        return output.transpose(1, 2), None


class _Layer(CacheLayerMixin):  # type: ignore[misc]
    """The cache of one layer, `(batch, kv_heads, capacity, head_size)` each, written where the step says."""

    is_sliding = False

    def __init__(self, step: Step, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.step = step
        self.keys, self.values = keys, values
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing to do: the tensors are there."""

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        *args: object,
        **kwargs: object,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new keys and values `(batch, kv_heads, length, head_size)`; the whole cache afterwards."""
        self.keys = self._write(self.keys, key_states)
        self.values = self._write(self.values, value_states)
        return self.keys, self.values

    def _write(self, cache: torch.Tensor, update: torch.Tensor) -> torch.Tensor:
        operands = (cache, update, self.step.write_indices)
        return torch.onnx.ops.symbolic(
            "TensorScatter", operands, {"axis": -2}, dtype=cache.dtype, shape=cache.shape, version=OPSET
        )

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """The slots that a mask would cover; masks come from outside."""
        return self.keys.shape[-2], 0

    def get_seq_length(self) -> int:
        """Positions come from outside; no model counts from here."""
        return 0

    def get_max_length(self) -> int:
        """The capacity, in tokens."""
        return int(self.keys.shape[-2])


class DecoderStep(torch.nn.Module):
    """A causal language model as a function of one step, with its cache in and out.

    Args:
        model: of transformers, in eval mode. It is used as it is; see `traceable`.
    """

    def __init__(self, model: Any) -> None:  # noqa: ANN401 (transformers has no types)
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        write_indices: torch.Tensor,
        mask: torch.Tensor,
        mask_sliding: torch.Tensor,
        last: torch.Tensor,
        past: Sequence[torch.Tensor],
    ) -> tuple[torch.Tensor, ...]:
        """The logits `(batch, vocab)` of each row's token at `last`, and the cache, as `past` comes.

        Args:
            input_ids: `(batch, length)`.
            position_ids: `(batch, length)`.
            write_indices: the slot of the first token, `(batch,)`; the others follow it.
            mask: True where a token may look at a slot, `(batch, 1, length, capacity)`.
            mask_sliding: the same for layers with a sliding window.
            last: the index in `length` of each row's last token, `(batch,)`.
            past: keys and values of each layer in turn, `(batch, kv_heads, capacity, head_size)`.
        """
        step = Step(write_indices, mask, mask_sliding)
        cache = Cache(layers=[_Layer(step, *past[at : at + 2]) for at in range(0, len(past), 2)])
        with _attention(step), _only_last(self.model.get_output_embeddings(), last):
            logits = self.model(
                input_ids=input_ids, position_ids=position_ids, past_key_values=cache, use_cache=True, return_dict=True
            ).logits
        return (logits, *(tensor for layer in cache.layers for tensor in (layer.keys, layer.values)))


@contextlib.contextmanager
def _attention(step: Step) -> Iterator[None]:
    """Let attention of this implementation be the step's own."""
    ALL_ATTENTION_FUNCTIONS[ATTENTION] = step.attend
    try:
        yield
    finally:
        del ALL_ATTENTION_FUNCTIONS[ATTENTION]


@contextlib.contextmanager
def _only_last(head: torch.nn.Module, last: torch.Tensor) -> Iterator[None]:
    """Give `head` one hidden state of each row, `(batch, hidden)`, in place of all `(batch, length, hidden)`."""

    def select(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        index = last[:, None, None].expand(-1, 1, inputs[0].shape[-1])
        return inputs[0].gather(1, index).squeeze(1)

    handle = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()
