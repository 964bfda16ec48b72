"""Standard ONNX -> the operators that ONNX Runtime runs fastest.

`com.microsoft.MultiHeadAttention` takes and returns `(batch, length, heads * width)`, so that the transposes between
that and the heads fall away, and without a mask its memory grows linearly with the length. Everything else of the
standard graph (Gelu, LayerNormalization, Add) is already ONNX Runtime's best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import CommonSubexpressionEliminationPass, RemoveUnusedNodesPass

_CONTRIB = "com.microsoft"
_SWAP = (0, 2, 1, 3)
"""The permutation between `(batch, length, heads, width)` and `(batch, heads, length, width)`; its own inverse."""


def lower_for_onnxruntime(model: ir.Model) -> ir.Model:
    """A model with the same answers whose attention runs in `com.microsoft.MultiHeadAttention`.

    Attention that the operator can't express (grouped keys, a cache, soft-capped scores) stays standard Attention,
    which ONNX Runtime runs too. `model` stays as it is; the new one shares its weights.
    """
    model = model.clone()
    attentions = [attention for attention in map(_read, model.graph) if attention is not None]
    for attention in attentions:
        _lower(attention, _Builder(model.graph, attention.node))
    if attentions:
        model.opset_imports[_CONTRIB] = 1
        CommonSubexpressionEliminationPass()(model)
        RemoveUnusedNodesPass()(model)
    return model


Dim = int | str | None
"""A size, a name, or None for a dimension without either."""
Dims = tuple[Dim, ...]
"""The dimensions of a value; `()` if its rank is unknown."""


def _dims(value: ir.Value | None) -> Dims:
    if value is None or value.shape is None:
        return ()
    return tuple(dim if isinstance(dim, int) else dim.value for dim in value.shape)


@dataclass(frozen=True)
class _Builder:
    """Adds nodes to `graph`, each before the node `position`."""

    graph: ir.Graph
    position: ir.Node

    def add(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        *,
        like: ir.Value,
        dims: Dims,
        domain: str = "",
        **attributes: int | float | Sequence[int],
    ) -> ir.Value:
        """The result of a new node, with the dtype of `like` and the shape `dims`."""
        node = ir.node(op_type, inputs, attributes, domain=domain)
        node.outputs[0].type, node.outputs[0].shape = like.type, ir.Shape(dims)
        self.graph.insert_before(self.position, node)
        return node.outputs[0]

    def constant(self, array: np.ndarray) -> ir.Value:
        """The value of a new constant."""
        node = ir.node("Constant", [], {"value": ir.tensor(array)})
        node.outputs[0].type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
        node.outputs[0].shape = ir.Shape(array.shape)
        self.graph.insert_before(self.position, node)
        return node.outputs[0]

    def ints(self, *numbers: int) -> ir.Value:
        """A constant vector `(n,)`."""
        return self.constant(np.array(numbers, np.int64))


@dataclass(frozen=True)
class _Attention:
    """A standard Attention over `(batch, heads, length, width)`; all heads and widths are static."""

    node: ir.Node
    query: ir.Value
    key: ir.Value
    value: ir.Value
    mask: ir.Value | None


def _read(node: ir.Node) -> _Attention | None:
    """`node` as an attention that MultiHeadAttention can express, None if it is not."""
    if node.domain != "" or node.op_type != "Attention" or len(node.outputs) > 1:
        return None
    query, key, value, mask, *cache = [*node.inputs, None][: max(4, len(node.inputs))]
    softcap = node.attributes.get_float("softcap", 0.0)
    if query is None or key is None or value is None or softcap != 0 or any(extra is not None for extra in cache):
        return None
    shapes = [_dims(operand) for operand in (query, key, value, node.outputs[0])]
    if any(len(dims) != 4 or None in dims or not isinstance(dims[3], int) for dims in shapes):
        return None
    heads = {dims[1] for dims in shapes}
    same_heads = len(heads) == 1 and all(isinstance(count, int) for count in heads)
    full_mask = mask is None or _dims(mask)[-2:] == (shapes[0][2], shapes[1][2])
    return _Attention(node, query, key, value, mask) if same_heads and full_mask else None


def _by_head(value: ir.Value) -> tuple[Dim, int, Dim, int]:
    """The dimensions `(batch, heads, length, width)` of a value that `_read` has let through."""
    batch, heads, length, width = _dims(value)
    assert isinstance(heads, int) and isinstance(width, int)  # noqa: S101 (see _read)
    return batch, heads, length, width


def _lower(attention: _Attention, builder: _Builder) -> None:
    """Put MultiHeadAttention in the place of `attention` and of the transposes around it."""
    node, output = attention.node, attention.node.outputs[0]
    batch, heads, length, width = _by_head(output)
    attributes: dict[str, int | float] = {"num_heads": heads}
    if "scale" in node.attributes:
        attributes["scale"] = node.attributes["scale"].as_float()
    if node.attributes.get_int("is_causal", 0) == 1:
        attributes["unidirectional"] = 1
    operands: list[ir.Value | None] = [
        _merge(operand, builder) for operand in (attention.query, attention.key, attention.value)
    ]
    if attention.mask is not None:
        operands += [None, None, _bias(attention.mask, attention.query, builder)]
    dims = batch, length, heads * width
    result = builder.add("MultiHeadAttention", operands, like=output, dims=dims, domain=_CONTRIB, **attributes)
    _replace(output, result, builder)


def _merge(value: ir.Value, builder: _Builder) -> ir.Value:
    """Heads side by side, `(batch, length, heads * width)`; what `value` was split from, where it was."""
    batch, heads, length, width = _by_head(value)
    merged, node = (batch, length, heads * width), value.producer()
    if node is not None and node.domain == "" and node.op_type == "RotaryEmbedding" and len(node.inputs) == 3:
        heads_last = _merge(_given(node.inputs[0]), builder)
        attributes = {name: attribute.value for name, attribute in node.attributes.items()} | {"num_heads": heads}
        return builder.add("RotaryEmbedding", [heads_last, *node.inputs[1:]], like=value, dims=merged, **attributes)
    if node is not None and _is_swap(node):
        split = _given(node.inputs[0])
    else:
        split = builder.add("Transpose", [value], like=value, dims=(batch, length, heads, width), perm=_SWAP)
    reshape = split.producer()
    if reshape is not None and reshape.op_type == "Reshape" and _dims(reshape.inputs[0]) == merged:
        return _given(reshape.inputs[0])
    return builder.add("Reshape", [split, builder.ints(0, 0, heads * width)], like=value, dims=merged)


def _given(value: ir.Value | None) -> ir.Value:
    """A required operand."""
    assert value is not None  # noqa: S101
    return value


def _is_swap(node: ir.Node) -> bool:
    return node.op_type == "Transpose" and node.domain == "" and tuple(node.attributes.get_ints("perm", ())) == _SWAP


def _bias(mask: ir.Value, query: ir.Value, builder: _Builder) -> ir.Value:
    """What is added to the scores, `(batch or 1, heads or 1, length, length)`."""
    dims, missing = _dims(mask), 4 - len(_dims(mask))
    if missing:
        dims = (1,) * missing + dims
        mask = builder.add("Unsqueeze", [mask, builder.ints(*range(missing))], like=mask, dims=dims)
    if mask.dtype != ir.DataType.BOOL:
        return mask
    dtype = query.dtype or ir.DataType.FLOAT
    seen, hidden = (builder.constant(np.array(number, dtype.numpy())) for number in (0, dtype.min))
    return builder.add("Where", [mask, seen, hidden], like=query, dims=dims)


def _replace(attended: ir.Value, merged: ir.Value, builder: _Builder) -> None:
    """Let what reads `attended`, `(batch, heads, length, width)`, read `merged`, `(batch, length, heads * width)`.

    Follows `attended` through the row masks that transformers puts behind it, to the place where it is merged.
    """
    batch, heads, length, width = _by_head(attended)
    for node in attended.consumers():
        if node.op_type == "Where" and node.inputs[2] is attended and _masks_rows(node):
            _replace(node.outputs[0], *_mask_rows(node, merged, builder))
        elif _is_swap(node):
            for reshape in node.outputs[0].consumers():
                output = reshape.outputs[0]
                if reshape.op_type == "Reshape" and _dims(output) == _dims(merged) and not output.is_graph_output():
                    ir.convenience.replace_all_uses_with(output, merged)
    sizes = builder.ints(0, 0, heads, width)
    split = builder.add("Reshape", [merged, sizes], like=merged, dims=(batch, length, heads, width))
    heads_first = builder.add("Transpose", [split], like=merged, dims=_dims(attended), perm=_SWAP)
    ir.convenience.replace_all_uses_with(attended, heads_first)


def _masks_rows(where: ir.Node) -> bool:
    """Whether a Where replaces whole rows, for all heads, by one number."""
    number = where.inputs[1]
    rows, kept = _dims(where.inputs[0]), _dims(where.inputs[2])
    one_row_each = len(rows) == 4 and rows[1] == rows[3] == 1 and rows[2] == kept[2]
    is_scalar = number is not None and number.shape is not None and len(number.shape) == 0
    return one_row_each and is_scalar and _dims(where.outputs[0]) == kept


def _mask_rows(where: ir.Node, merged: ir.Value, builder: _Builder) -> tuple[ir.Value, _Builder]:
    """The same replacement of rows after the heads are merged, and a builder that continues there."""
    builder = _Builder(builder.graph, where)
    condition = _given(where.inputs[0])
    batch, _, length, _ = _dims(condition)
    rows = builder.add("Squeeze", [condition, builder.ints(1)], like=condition, dims=(batch, length, 1))
    return builder.add("Where", [rows, where.inputs[1], merged], like=merged, dims=_dims(merged)), builder
