"""Standard ONNX -> the operators that ONNX Runtime runs fastest.

`com.microsoft.MultiHeadAttention` takes and returns `(batch, length, heads * width)`, so that the transposes between
that and the heads fall away, and without a mask its memory grows linearly with the length. Everything else of the
standard graph (Gelu, LayerNormalization, Add) is already ONNX Runtime's best.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import CommonSubexpressionEliminationPass, RemoveUnusedNodesPass

from ctx_export.heads import CONTRIB, Builder, by_head, dims_of, merge_heads, replace_attended


def lower_for_onnxruntime(model: ir.Model) -> ir.Model:
    """A model with the same answers whose attention runs in `com.microsoft.MultiHeadAttention`.

    Attention that the operator can't express (grouped keys, a cache, soft-capped scores) stays standard Attention,
    which ONNX Runtime runs too. `model` stays as it is; the new one shares its weights.
    """
    model = model.clone()
    attentions = [attention for attention in map(_read, model.graph) if attention is not None]
    for attention in attentions:
        _lower(attention, Builder(model.graph, attention.node))
    if attentions:
        model.opset_imports[CONTRIB] = 1
        CommonSubexpressionEliminationPass()(model)
        RemoveUnusedNodesPass()(model)
    return model


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
    shapes = [dims_of(operand) for operand in (query, key, value, node.outputs[0])]
    if any(len(dims) != 4 or None in dims or not isinstance(dims[3], int) for dims in shapes):
        return None
    heads = {dims[1] for dims in shapes}
    same_heads = len(heads) == 1 and all(isinstance(count, int) for count in heads)
    full_mask = mask is None or dims_of(mask)[-2:] == (shapes[0][2], shapes[1][2])
    return _Attention(node, query, key, value, mask) if same_heads and full_mask else None


def _lower(attention: _Attention, builder: Builder) -> None:
    """Put MultiHeadAttention in the place of `attention` and of the transposes around it."""
    node, output = attention.node, attention.node.outputs[0]
    batch, heads, length, width = by_head(output)
    attributes: dict[str, int | float] = {"num_heads": heads}
    if "scale" in node.attributes:
        attributes["scale"] = node.attributes["scale"].as_float()
    if node.attributes.get_int("is_causal", 0) == 1:
        attributes["unidirectional"] = 1
    operands: list[ir.Value | None] = [
        merge_heads(operand, builder) for operand in (attention.query, attention.key, attention.value)
    ]
    if attention.mask is not None:
        operands += [None, None, _bias(attention.mask, attention.query, builder)]
    dims = batch, length, heads * width
    result = builder.add("MultiHeadAttention", operands, like=output, dims=dims, domain=CONTRIB, **attributes)
    replace_attended(output, result, builder)


def _bias(mask: ir.Value, query: ir.Value, builder: Builder) -> ir.Value:
    """What is added to the scores, `(batch or 1, heads or 1, length, length)`."""
    dims, missing = dims_of(mask), 4 - len(dims_of(mask))
    if missing:
        dims = (1,) * missing + dims
        mask = builder.add("Unsqueeze", [mask, builder.ints(*range(missing))], like=mask, dims=dims)
    if mask.dtype != ir.DataType.BOOL:
        return mask
    dtype = query.dtype or ir.DataType.FLOAT
    seen, hidden = (builder.constant(np.array(number, dtype.numpy())) for number in (0, dtype.min))
    return builder.add("Where", [mask, seen, hidden], like=query, dims=dims)
