"""Heads side by side in `(batch, length, heads * width)`, as the operators of `com.microsoft` take attention.

The standard graph splits and transposes them to `(batch, heads, length, width)` and back; both fall away together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

CONTRIB = "com.microsoft"
SWAP = (0, 2, 1, 3)
"""The permutation between `(batch, length, heads, width)` and `(batch, heads, length, width)`; its own inverse."""

Dim = int | str | None
"""A size, a name, or None for a dimension without either."""
Dims = tuple[Dim, ...]
"""The dimensions of a value; `()` if its rank is unknown."""


def dims_of(value: ir.Value | None) -> Dims:
    """The dimensions of `value`."""
    if value is None or value.shape is None:
        return ()
    return tuple(dim if isinstance(dim, int) else dim.value for dim in value.shape)


@dataclass(frozen=True)
class Builder:
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


def by_head(value: ir.Value) -> tuple[Dim, int, Dim, int]:
    """The dimensions `(batch, heads, length, width)` of a value with static heads and width."""
    batch, heads, length, width = dims_of(value)
    assert isinstance(heads, int) and isinstance(width, int)  # noqa: S101
    return batch, heads, length, width


def merge_heads(value: ir.Value, builder: Builder) -> ir.Value:
    """Heads side by side, `(batch, length, heads * width)`; what `value` was split from, where it was."""
    batch, heads, length, width = by_head(value)
    merged, node = (batch, length, heads * width), value.producer()
    if node is not None and node.domain == "" and node.op_type == "RotaryEmbedding" and len(node.inputs) == 3:
        heads_last = merge_heads(given(node.inputs[0]), builder)
        attributes = {name: attribute.value for name, attribute in node.attributes.items()} | {"num_heads": heads}
        return builder.add("RotaryEmbedding", [heads_last, *node.inputs[1:]], like=value, dims=merged, **attributes)
    if node is not None and _is_swap(node):
        split = given(node.inputs[0])
    else:
        split = builder.add("Transpose", [value], like=value, dims=(batch, length, heads, width), perm=SWAP)
    reshape = split.producer()
    if reshape is not None and reshape.op_type == "Reshape" and dims_of(reshape.inputs[0]) == merged:
        return given(reshape.inputs[0])
    return builder.add("Reshape", [split, builder.ints(0, 0, heads * width)], like=value, dims=merged)


def given(value: ir.Value | None) -> ir.Value:
    """A required operand."""
    assert value is not None  # noqa: S101
    return value


def _is_swap(node: ir.Node) -> bool:
    return node.op_type == "Transpose" and node.domain == "" and tuple(node.attributes.get_ints("perm", ())) == SWAP


def replace_attended(attended: ir.Value, merged: ir.Value, builder: Builder) -> None:
    """Let what reads `attended`, `(batch, heads, length, width)`, read `merged`, `(batch, length, heads * width)`.

    Follows `attended` through the row masks that transformers puts behind it, to the place where it is merged.
    """
    batch, heads, length, width = by_head(attended)
    for node in attended.consumers():
        if node.op_type == "Where" and node.inputs[2] is attended and _masks_rows(node):
            replace_attended(node.outputs[0], *_mask_rows(node, merged, builder))
        elif _is_swap(node):
            for reshape in node.outputs[0].consumers():
                output = reshape.outputs[0]
                if reshape.op_type == "Reshape" and dims_of(output) == dims_of(merged) and not output.is_graph_output():
                    ir.convenience.replace_all_uses_with(output, merged)
    sizes = builder.ints(0, 0, heads, width)
    split = builder.add("Reshape", [merged, sizes], like=merged, dims=(batch, length, heads, width))
    heads_first = builder.add("Transpose", [split], like=merged, dims=dims_of(attended), perm=SWAP)
    ir.convenience.replace_all_uses_with(attended, heads_first)


def _masks_rows(where: ir.Node) -> bool:
    """Whether a Where replaces whole rows, for all heads, by one number."""
    number = where.inputs[1]
    rows, kept = dims_of(where.inputs[0]), dims_of(where.inputs[2])
    one_row_each = len(rows) == 4 and rows[1] == rows[3] == 1 and rows[2] == kept[2]
    is_scalar = number is not None and number.shape is not None and len(number.shape) == 0
    return one_row_each and is_scalar and dims_of(where.outputs[0]) == kept


def _mask_rows(where: ir.Node, merged: ir.Value, builder: Builder) -> tuple[ir.Value, Builder]:
    """The same replacement of rows after the heads are merged, and a builder that continues there."""
    builder = Builder(builder.graph, where)
    condition = given(where.inputs[0])
    batch, _, length, _ = dims_of(condition)
    rows = builder.add("Squeeze", [condition, builder.ints(1)], like=condition, dims=(batch, length, 1))
    return builder.add("Where", [rows, where.inputs[1], merged], like=merged, dims=dims_of(merged)), builder
