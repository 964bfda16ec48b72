"""float32 -> 16 bits, in the graph itself: TensorRT builds strongly typed networks, so that the graph decides.

As in mixed-precision training, an operation runs in 16 bits where its library accumulates in float32 anyway (matrix
products, attention, normalisation), in float32 where 16 bits lose the range or the digits (powers, sums, angles of
positions), and otherwise in what its operands have.
"""

from __future__ import annotations

from collections.abc import Collection

import ml_dtypes
import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass, ShapeInferencePass

from ctx_runtime.errors import ExportError

_NARROW = frozenset(
    {
        *("MatMul", "Gemm", "Einsum", "Conv", "Attention", "RotaryEmbedding", "Softmax", "LogSoftmax"),
        *("LayerNormalization", "RMSNormalization", "GroupNormalization", "InstanceNormalization"),
    }
)
"""Accumulate in float32 themselves."""
_WIDE = frozenset(
    {
        *("Pow", "Exp", "Log", "Range", "CumSum", "Sin", "Cos", "ReduceSum", "ReduceMean", "ReduceProd"),
        *("ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp"),
    }
)
"""Leave the range of float16, or lose digits that matter."""
_ANGLES = ("Sin", "Cos")
"""Their operands, positions times frequencies, need more digits than 16 bits have."""


def narrow(model: ir.Model, dtype: ir.DataType, *, border: Collection[str] = ()) -> ir.Model:
    """`model` in `dtype`, FLOAT16 or BFLOAT16; inputs and outputs keep theirs by casts, but those of `border`.

    Numbers beyond the range of `dtype` become its largest finite ones, and tiny ones its smallest, so that a mask of
    `-3.4e38` is not an infinity and a divisor of `1e-12` not zero.

    Raises:
        ExportError: the graph has control flow.
    """
    model = model.clone()
    if any(attribute.type == ir.AttributeType.GRAPH for node in model.graph for attribute in node.attributes.values()):
        raise ExportError(
            "a graph with control flow can't be converted to 16 bits", hint="build it with precision fp32"
        )
    _complete_types(model)
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.name in border:
            value.type = ir.TensorType(dtype)
    wide = _angles(model.graph)
    outputs = [(value.name, value.dtype) for value in model.graph.outputs]
    narrowing = _Narrowing(model.graph, dtype)
    for node in list(model.graph):
        if node.op_type != "Constant":
            narrowing.convert(node, wide=node in wide or _stays_wide(node))
    for index, (name, kept) in enumerate(outputs):
        narrowing.restore_output(index, name, kept)
    RemoveUnusedNodesPass()(model)
    return model


def _complete_types(model: ir.Model) -> None:
    """Give every value whose dtype the exporter left open the one that ONNX infers."""
    inferred = ShapeInferencePass(strict_mode=False)(model.clone()).model
    for node, twin in zip(model.graph, inferred.graph, strict=True):
        for output, typed in zip(node.outputs, twin.outputs, strict=True):
            output.type = output.type or typed.type


def _angles(graph: ir.Graph) -> set[ir.Node]:
    """Every node that computes with floats towards a sine or a cosine."""
    found: set[ir.Node] = set()
    pending = [node for node in graph if node.op_type in _ANGLES]
    while pending:
        node = pending.pop()
        if node not in found:
            found.add(node)
            pending += [
                producer
                for value in node.inputs
                if value is not None and value.dtype == ir.DataType.FLOAT and (producer := value.producer()) is not None
            ]
    return found


def _stays_wide(node: ir.Node) -> bool:
    if node.op_type in _NARROW or node.op_type == "Cast":
        return False
    computed = (value for value in node.inputs if value is not None and _constant(value) is None)
    return node.op_type in _WIDE or any(value.dtype == ir.DataType.FLOAT for value in computed)


def _constant(value: ir.Value) -> ir.TensorProtocol | None:
    return ir.convenience.get_const_tensor(value)


class _Narrowing:
    """Converts the nodes of `graph` one by one, in their order; each cast and each converted constant is made once."""

    def __init__(self, graph: ir.Graph, dtype: ir.DataType) -> None:
        self._graph = graph
        self._dtype = dtype
        self._floats = {ir.DataType.FLOAT, dtype}
        self._casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def convert(self, node: ir.Node, *, wide: bool) -> None:
        """Let `node` compute in float32 if `wide`, else in 16 bits."""
        wanted = ir.DataType.FLOAT if wide else self._dtype
        if node.op_type == "Cast":
            self._convert_cast(node, wanted)
            return
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype in self._floats and value.dtype != wanted:
                node.replace_input_with(index, self._as(value, wanted, before=node))
        if node.op_type == "ConstantOfShape" and not wide and "value" in node.attributes:
            fill = node.attributes["value"].as_tensor()
            if fill.dtype == ir.DataType.FLOAT:
                node.attributes["value"] = ir.AttrTensor("value", _narrowed(fill, self._dtype))
        self._set_outputs(node, wanted)

    def _convert_cast(self, node: ir.Node, wanted: ir.DataType) -> None:
        if node.attributes.get_int("to") == ir.DataType.FLOAT:
            node.attributes["to"] = ir.AttrInt64("to", wanted)
            self._set_outputs(node, wanted)

    def _set_outputs(self, node: ir.Node, wanted: ir.DataType) -> None:
        for output in node.outputs:
            if output.dtype == ir.DataType.FLOAT:
                output.type = ir.TensorType(wanted)

    def restore_output(self, index: int, name: str | None, dtype: ir.DataType | None) -> None:
        """Give the output at `index` its name and dtype back."""
        value = self._graph.outputs[index]
        if dtype is None or value.dtype == dtype:
            return
        value.name = f"{name}.{value.dtype}"
        cast = ir.node("Cast", [value], {"to": dtype})
        cast.outputs[0].name, cast.outputs[0].shape, cast.outputs[0].type = name, value.shape, ir.TensorType(dtype)
        self._graph.append(cast)
        self._graph.outputs[index] = cast.outputs[0]

    def _as(self, value: ir.Value, dtype: ir.DataType, *, before: ir.Node) -> ir.Value:
        """`value` in `dtype`: a converted constant, or the result of a cast."""
        if (value, dtype) not in self._casts:
            constant = _constant(value)
            if constant is None:
                self._casts[value, dtype] = self._cast(value, dtype, before)
            else:
                self._casts[value, dtype] = self._converted(value, constant, dtype)
        return self._casts[value, dtype]

    def _cast(self, value: ir.Value, dtype: ir.DataType, before: ir.Node) -> ir.Value:
        cast = ir.node("Cast", [value], {"to": dtype})
        cast.outputs[0].shape, cast.outputs[0].type = value.shape, ir.TensorType(dtype)
        self._graph.insert_before(before, cast)
        return cast.outputs[0]

    def _converted(self, value: ir.Value, constant: ir.TensorProtocol, dtype: ir.DataType) -> ir.Value:
        name = f"{value.name}.{dtype.short_name()}"
        tensor = ir.LazyTensor(
            lambda: _narrowed(constant, dtype), dtype=dtype, shape=ir.Shape(constant.shape.numpy()), name=name
        )
        converted = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(dtype), const_value=tensor)
        self._graph.register_initializer(converted)
        return converted


def _narrowed(tensor: ir.TensorProtocol, dtype: ir.DataType) -> ir.TensorProtocol:
    """The numbers of `tensor` in `dtype`: what is finite stays finite, what is not zero does not become zero."""
    array, info = tensor.numpy(), ml_dtypes.finfo(dtype.numpy())  # type: ignore[no-untyped-call]
    finite = np.clip(array, float(info.min), float(info.max))
    largest = np.where(np.isfinite(array), finite, array)
    smallest = np.copysign(np.float32(info.smallest_subnormal), array)
    kept = np.where((array != 0) & (np.abs(array) < float(info.smallest_subnormal)), smallest, largest)
    return ir.Tensor(kept.astype(dtype.numpy()), dtype=dtype)
