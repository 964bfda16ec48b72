"""A causal language model -> its one canonical decoder graph: prefill, chunk and decode, at every capacity."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.passes.common import (
    ClearMetadataAndDocStringPass,
    CommonSubexpressionEliminationPass,
    RemoveUnusedNodesPass,
)

from ctx_export.constants import compute_constants
from ctx_export.decoding.operators import traceable
from ctx_export.decoding.step import OPSET, WINDOW, DecoderStep
from ctx_export.quiet import quiet
from ctx_runtime.errors import CtxError, ExportError

_BATCH, _LENGTH, _CAPACITY = 2, 5, 23
"""Sizes of the example that is traced."""


@dataclass(frozen=True)
class DecoderShape:
    """What a cache for the model looks like.

    Attributes:
        layers: their number.
        kv_heads: heads of keys and values.
        head_size: numbers of a key or value in one head.
        vocab_size: tokens that logits are given for.
        windows: by layer, the tokens that it looks back on, itself included; None: all.
    """

    layers: int
    kv_heads: int
    head_size: int
    vocab_size: int
    windows: tuple[int | None, ...]

    def to_json(self) -> str:
        """Text that `from_json` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> DecoderShape:
        """Read what `to_json` wrote."""
        values = json.loads(text)
        return cls(**values | {"windows": tuple(values["windows"])})


@dataclass(frozen=True)
class Decoder:
    """A decoder graph with the shape of its cache.

    The graph takes `input_ids` and `position_ids` `(batch, length)`, `write_indices` and `last` `(batch,)`, `mask` and
    `mask_sliding` `(batch, 1, length, capacity)`, of which one is absent where no layer uses it, and `past_key.{i}`
    and `past_value.{i}` `(batch, kv_heads, capacity, head_size)`; it gives `logits` `(batch, vocab)`, `present_key.{i}`
    and `present_value.{i}`.
    """

    graph: ir.Model
    shape: DecoderShape


def export_decoder(model: Any) -> Decoder:  # noqa: ANN401 (transformers has no types)
    """The canonical graph of a causal language model of transformers, in opset 24.

    Raises:
        ExportError: the model keeps a state that is no cache of keys and values, its attention does more than the
            standard operator, or torch.export refuses it.
    """
    kv_heads, head_size, layers, vocab_size = _measure(model)
    step = DecoderStep(model)
    try:
        with torch.no_grad(), quiet(), traceable(model):
            graph = _trace(step, layers, kv_heads, head_size)
    except CtxError:
        raise
    except Exception as error:
        raise ExportError(
            f"{type(model).__name__} can't be exported: {str(error).splitlines()[0]}",
            hint="--debug shows the whole error",
        ) from error
    windows = tuple(int(node.metadata_props[WINDOW]) or None for node in graph.graph if node.op_type == "Attention")
    _name_dims(graph.graph)
    _drop_unused_inputs(graph.graph)
    for tidy in (ClearMetadataAndDocStringPass(), CommonSubexpressionEliminationPass(), RemoveUnusedNodesPass()):
        tidy(graph)
    compute_constants(graph)
    _check_windows(model, windows)
    return Decoder(graph, DecoderShape(layers, kv_heads, head_size, vocab_size, windows))


def _measure(model: Any) -> tuple[int, int, int, int]:  # noqa: ANN401
    """Heads and size of the keys and values, layers and vocabulary, seen by running two tokens."""
    with torch.no_grad():
        output = model(input_ids=torch.tensor([[0, 1]]), use_cache=True)
    cached = list(getattr(output.get("past_key_values"), "layers", ()))
    shapes = {tuple(tensor.shape) for layer in cached for tensor in (layer.keys, layer.values) if tensor is not None}
    if len(shapes) != 1 or len(next(iter(shapes))) != 4:
        raise ExportError(
            f"the layers of {type(model).__name__} have caches of different kinds or sizes",
            hint="`ctx-export` exports decoders whose layers all cache keys and values of one size",
        )
    _, kv_heads, _, head_size = next(iter(shapes))
    return kv_heads, head_size, len(cached), output.logits.shape[-1]


def _check_windows(model: Any, windows: tuple[int | None, ...]) -> None:  # noqa: ANN401
    """Refuse kinds of layers that attention does not tell apart, and several window sizes."""
    kinds = getattr(model.config, "layer_types", None) or ()
    unknown = set(kinds) - {"full_attention", "sliding_attention"}
    sizes = {window for window in windows if window is not None}
    if unknown or len(sizes) > 1:
        found = ", ".join(sorted(unknown)) or f"windows of {', '.join(map(str, sorted(sizes)))} tokens"
        raise ExportError(
            f"{type(model).__name__} has layers with {found}",
            hint="`ctx-export` exports full attention and sliding windows of one size",
        )


def _trace(step: DecoderStep, layers: int, kv_heads: int, head_size: int) -> ir.Model:
    """The ONNX graph of one step, its inputs and outputs named."""
    batch, length, capacity = (torch.export.Dim(name, min=1) for name in ("batch", "length", "capacity"))
    tokens, rows = {0: batch, 1: length}, {0: batch}
    mask, cache = {0: batch, 2: length, 3: capacity}, {0: batch, 2: capacity}
    ids = torch.zeros(_BATCH, _LENGTH, dtype=torch.int64)
    each_row = torch.zeros(_BATCH, dtype=torch.int64)
    may = torch.ones(_BATCH, 1, _LENGTH, _CAPACITY, dtype=torch.bool)
    dtype = next(step.parameters()).dtype
    past = [torch.zeros(_BATCH, kv_heads, _CAPACITY, head_size, dtype=dtype) for _ in range(2 * layers)]
    program = torch.export.export(
        step,
        (ids, ids.clone(), each_row, may, may.clone(), each_row.clone(), past),
        dynamic_shapes=(tokens, tokens, rows, mask, mask, rows, [cache] * len(past)),
        strict=False,
        prefer_deferred_runtime_asserts_over_guards=True,
    )
    slots = [f"{kind}.{layer}" for layer in range(layers) for kind in ("key", "value")]
    converted = torch.onnx.export(
        program,
        input_names=["input_ids", "position_ids", "write_indices", "mask", "mask_sliding", "last"]
        + [f"past_{slot}" for slot in slots],
        output_names=["logits", *(f"present_{slot}" for slot in slots)],
        opset_version=OPSET,
        verbose=False,
    )
    assert converted is not None  # noqa: S101 (None only where it writes a file)
    return converted.model


def _name_dims(graph: ir.Graph) -> None:
    """Call the dimensions `batch`, `length` and `capacity` everywhere, whatever tracing called them."""
    by_name = {value.name: value for value in graph.inputs}
    mask = by_name["mask"].shape
    assert mask is not None  # noqa: S101 (the exporter writes all shapes)
    names = {str(mask[axis]): name for axis, name in ((0, "batch"), (2, "length"), (3, "capacity"))}
    for value in [*graph.inputs, *(output for node in graph for output in node.outputs)]:
        if value.shape is not None:
            value.shape = ir.Shape([dim if isinstance(dim, int) else names.get(str(dim), dim) for dim in value.shape])
    for output in graph.outputs:
        twin = by_name.get((output.name or "").replace("present_", "past_"))
        if twin is not None:
            output.shape = twin.shape


def _drop_unused_inputs(graph: ir.Graph) -> None:
    """Remove the mask that no layer uses, and the positions of a model that counts by itself."""
    for value in [value for value in graph.inputs if not value.uses()]:
        graph.inputs.remove(value)
