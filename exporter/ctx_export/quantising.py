"""Weights of matrix products in 8 or 4 bits, behind a DequantizeLinear; activations stay as they are.

Quantising activations with a scale of the whole batch would let padding and neighbours change an answer, and a scale
fixed in advance needs calibration data that a build does not have; weights alone need neither.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import ml_dtypes
import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

BLOCK_SIZE = 32
"""Rows of a column that share one scale in 4 bits."""
_MIN_ELEMENTS = 1024
"""Smaller weights are not worth a scale."""


def quantise_weights(model: ir.Model, *, bits: Literal[4, 8], wide: Collection[str] = ()) -> ir.Model:
    """`model` with the constant right operands `(in, out)` of its MatMuls, transposed or not, in `bits`, symmetric.

    8 bits have a scale for each column; 4 bits one for each block of 32 rows of a column, where the rows divide into
    blocks; products whose results have the names `wide` take 8. What is looked up rather than multiplied (embeddings)
    stays float32.
    """
    model = model.clone()
    quantised: dict[tuple[ir.Value, int], ir.Value] = {}
    for node in list(model.graph):
        weight = _stored(model.graph, node.inputs[1]) if node.op_type == "MatMul" and node.domain == "" else None
        width = 8 if node.outputs[0].name in wide else bits
        if weight is None or not _is_quantisable(weight, width):
            continue
        if (weight, width) not in quantised:
            quantised[weight, width] = _dequantised(model.graph, node, weight, width)
        node.replace_input_with(1, quantised[weight, width])
    RemoveUnusedNodesPass()(model)
    return model


def _stored(graph: ir.Graph, operand: ir.Value | None) -> ir.Value | None:
    """`operand`, or what a Transpose of a stored matrix gives, as an initializer."""
    node = operand.producer() if operand is not None else None
    source = node.inputs[0] if node is not None and node.op_type == "Transpose" and node.domain == "" else None
    if source is None or source.const_value is None or len(source.const_value.shape) != 2:
        return operand
    name, whole = f"{source.name}.transposed", source.const_value
    if name not in graph.initializers:
        dims = ir.Shape(whole.shape.numpy()[::-1])
        _initializer(graph, ir.LazyTensor(lambda: ir.Tensor(whole.numpy().T), dtype=whole.dtype, shape=dims, name=name))
    return graph.initializers[name]


def _is_quantisable(weight: ir.Value, bits: int) -> bool:
    tensor = weight.const_value
    if not weight.is_initializer() or tensor is None or tensor.dtype != ir.DataType.FLOAT or len(tensor.shape) != 2:
        return False
    return tensor.size >= _MIN_ELEMENTS and (bits == 8 or tensor.shape.numpy()[0] % BLOCK_SIZE == 0)


def _dequantised(graph: ir.Graph, before: ir.Node, weight: ir.Value, bits: int) -> ir.Value:
    """The result of a new DequantizeLinear that restores `weight`."""
    assert weight.const_value is not None  # noqa: S101 (see _is_quantisable)
    numbers, scale = _quantise(weight.const_value.numpy(), bits)
    dtype = ir.DataType.INT8 if bits == 8 else ir.DataType.INT4
    operands = [
        _initializer(graph, ir.Tensor(numbers, dtype=dtype, name=f"{weight.name}.int{bits}")),
        _initializer(graph, ir.Tensor(scale, name=f"{weight.name}.scale{bits}")),
    ]
    attributes = {"axis": 1} if bits == 8 else {"axis": 0, "block_size": BLOCK_SIZE}
    node = ir.node("DequantizeLinear", operands, attributes)
    node.outputs[0].type, node.outputs[0].shape = weight.type, weight.shape
    graph.insert_before(before, node)
    return node.outputs[0]


def _quantise(array: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Integers `(in, out)` and their scales: `(out,)` for 8 bits, `(in / 32, out)` for 4."""
    rows, columns = array.shape
    size = rows if bits == 8 else BLOCK_SIZE
    largest, blocks = 2 ** (bits - 1) - 1, array.reshape(rows // size, size, columns)
    scale = np.maximum(np.abs(blocks).max(1, keepdims=True) / largest, np.finfo(np.float32).tiny).astype(np.float32)
    numbers = np.rint(blocks / scale).reshape(rows, columns)
    dtype = np.dtype(np.int8) if bits == 8 else np.dtype(ml_dtypes.int4)
    return numbers.astype(np.int8).astype(dtype), scale[0, 0] if bits == 8 else scale[:, 0]


def _initializer(graph: ir.Graph, tensor: ir.TensorProtocol) -> ir.Value:
    value = ir.Value(
        name=tensor.name, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value
