"""How large the constants are that a runtime computes when it opens a graph.

ONNX Runtime evaluates every node whose inputs are all constant. A few bytes of `ConstantOfShape` can ask for terabytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping

from ctx_runtime.errors import BundleError
from ctx_runtime.onnx_schema import Attribute, Node, Tensor

_NO_LARGER = frozenset({
    "Abs", "Cast", "CastLike", "Ceil", "Clip", "Cos", "DequantizeLinear", "Erf", "Exp", "Flatten", "Floor", "Gelu",
    "Identity", "Log", "Neg", "Not", "QuantizeLinear", "Reciprocal", "ReduceMax", "ReduceMean", "ReduceMin",
    "ReduceProd", "ReduceSum", "Relu", "Reshape", "Round", "Shape", "Sigmoid", "Sign", "Sin", "Size", "Slice",
    "Softmax", "Sqrt", "Squeeze", "Tanh", "Transpose", "Trilu", "Unsqueeze", "Concat", "LayerNormalization",
})  # fmt: skip
"""Operators that give no more elements than they take in all, but for a shape."""
_BROADCAST = frozenset({
    "Add", "And", "Div", "Equal", "Gather", "GatherElements", "GatherND", "Greater", "GreaterOrEqual", "Less",
    "LessOrEqual", "MatMul", "Max", "Min", "Mod", "Mul", "Or", "Pow", "Sub", "Where",
})  # fmt: skip
"""Operators that give at most the product of the elements that they take."""
_RANK = 8
_INT64 = 7
_UNCOUNTABLE = 1 << 62

Value = Tensor | int | None
"""What is known of a value: its tensor; if it is computed from constants, at most how many elements; or nothing."""


def constant_value(node: Node, scope: Mapping[str, Value]) -> Value:
    """What is known of the outputs of `node`, which the runtime computes at opening if all its inputs are constant.

    Args:
        node: nodes with graphs inside are never computed at opening.
        scope: the values that the node can see.

    Raises:
        BundleError: `graph-size`, where the number of elements can't be told.
    """
    names = [name for name in node.input if name]
    if node.op_type == "Constant" and not names:
        tensors = [attribute.t for attribute in node.attribute if attribute.t]
        return tensors[0] if tensors else max([1, *map(_length, node.attribute)])
    inputs = [value for name in names if (value := scope[name]) is not None]
    if not inputs or len(inputs) < len(names) or any(a.g is not None or a.graphs for a in node.attribute):
        return None
    sizes = [_elements(value) for value in inputs]
    if node.op_type in _NO_LARGER:
        return max(sum(sizes), _RANK) * len(node.output)
    if node.op_type in _BROADCAST:
        return bounded_product(sizes)
    if node.op_type == "ConstantOfShape":
        return bounded_product(_shape(node, inputs[0]))
    if node.op_type == "Expand":
        return bounded_product([sizes[0], *_shape(node, inputs[-1])])
    raise BundleError("graph-size", f"{node.op_type!r} {node.name!r} takes only constants: compute it in the build")


def bounded_product(factors: Iterable[int]) -> int:
    """The product of numbers that are not negative; 2^62 where it is more, so that it stays cheap to compute."""
    product = 1
    for factor in factors:
        product = min(product * factor, _UNCOUNTABLE)
    return product


def _length(attribute: Attribute) -> int:
    """The elements of an attribute that is a list of numbers; floats are 4 bytes each, packed or not."""
    return len(attribute.ints) + sum(map(len, attribute.floats)) // 4


def _elements(value: Tensor | int) -> int:
    """At most how many elements; a dimension of none counts as one, for what is made from the others."""
    return value if isinstance(value, int) else bounded_product(max(size, 1) for size in value.dims)


def _shape(node: Node, value: Tensor | int) -> Iterator[int]:
    """The sizes that a small int64 tensor of the file holds."""
    if isinstance(value, int) or value.raw_data is None or value.data_type != _INT64 or len(value.raw_data) % 8:
        raise BundleError("graph-size", f"{node.op_type!r} {node.name!r} takes a shape that can't be told")
    return (max(size, 1) for (size,) in struct.iter_unpack("<q", value.raw_data))
