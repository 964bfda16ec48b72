"""The canonical decoder graph -> the form whose cost follows the filled part of the cache, for ONNX Runtime's CPU.

ONNX Runtime's standard Attention looks at every slot that the cache has, filled or not. Its own
`com.microsoft.GroupQueryAttention` writes the cache and attends in one operator, over the filled slots only.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes.common import CommonSubexpressionEliminationPass, RemoveUnusedNodesPass

from ctx_export.decoding.graph import Decoder
from ctx_export.heads import CONTRIB, Builder, by_head, given, merge_heads, replace_attended

_REPLACED = ("write_indices", "mask", "mask_sliding")
"""The inputs that the canonical form alone takes."""


def lower_to_grouped(decoder: Decoder) -> ir.Model:
    """The same network with GroupQueryAttention; the graph of `decoder` stays as it is, its weights are shared.

    In the place of `write_indices`, `mask` and `mask_sliding` the graph takes `seqlens_k` `(batch,)` int32, the tokens
    of each row in the cache after this step less one, and `total_sequence_length` `(1,)` int32, the most tokens of a
    row after this step. Tokens are cached in order. Several rows go together only where all of their caches are
    empty, or each gets one token.
    """
    model = decoder.graph.clone()
    graph = model.graph
    lengths = [_input("seqlens_k", ["batch"]), _input("total_sequence_length", [1])]
    nodes = [node for node in graph if node.op_type == "Attention" and node.domain == ""]
    for node, window in zip(nodes, decoder.shape.windows, strict=True):
        _lower(_read(node), Builder(graph, node), lengths, window)
    graph.inputs.extend(lengths)
    model.opset_imports[CONTRIB] = 1
    RemoveUnusedNodesPass()(model)
    for value in [value for value in graph.inputs if value.name in _REPLACED]:
        graph.inputs.remove(value)
    CommonSubexpressionEliminationPass()(model)
    return model


def _input(name: str, dims: list[str | int]) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(dims), type=ir.TensorType(ir.DataType.INT32))


@dataclass(frozen=True)
class _CachedAttention:
    """Attention over a cache that two TensorScatters have just written."""

    node: ir.Node
    query: ir.Value
    key: ir.Node
    value: ir.Node


def _read(node: ir.Node) -> _CachedAttention:
    query, key, value = (given(operand) for operand in node.inputs[:3])
    writes = key.producer(), value.producer()
    assert writes[0] is not None and writes[1] is not None  # noqa: S101 (see step.py)
    return _CachedAttention(node, query, writes[0], writes[1])


def _lower(attention: _CachedAttention, builder: Builder, lengths: list[ir.Value], window: int | None) -> None:
    """Put GroupQueryAttention in the place of `attention`, of its writes and of the transposes around them."""
    output, presents = attention.node.outputs[0], [attention.key.outputs[0], attention.value.outputs[0]]
    batch, heads, length, width = by_head(output)
    updates = [given(write.inputs[1]) for write in (attention.key, attention.value)]
    attributes: dict[str, int | float] = {"num_heads": heads, "kv_num_heads": by_head(updates[0])[1]}
    for name in ("scale", "softcap"):
        if name in attention.node.attributes:
            attributes[name] = attention.node.attributes[name].as_float()
    if window is not None:
        attributes["local_window_size"] = window
    merged = [merge_heads(operand, builder) for operand in (attention.query, *updates)]
    pasts = [given(write.inputs[0]) for write in (attention.key, attention.value)]
    node = ir.node("GroupQueryAttention", [*merged, *pasts, *lengths], attributes, domain=CONTRIB, num_outputs=3)
    node.outputs[0].type, node.outputs[0].shape = output.type, ir.Shape([batch, length, heads * width])
    builder.graph.insert_before(builder.position, node)
    replace_attended(output, node.outputs[0], builder)
    for old, new in zip(presents, node.outputs[1:], strict=True):
        new.type, new.shape = old.type, old.shape
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        new.name, old.name = old.name, None
