"""Weights in blocks of 8 or 4 bits for `com.microsoft.MatMulNBits`, which multiplies them as they are.

Decoding reads every weight once for each token, so that its speed is that of memory: a quarter of the bytes is up to
four times the speed. Activations are rounded to 8 bits in blocks too (accuracy level 4); each row by itself, so that
an answer depends on nothing but its own row.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from ctx_export.heads import CONTRIB, dims_of

BLOCK_SIZE = 32
"""Weights of one output that share a scale."""
ACCURACY_LEVEL = 4
"""Activations in int8: the level with fast kernels."""
_SHRINKS = np.linspace(0.80, 1.05, 6, dtype=np.float32)
"""Scales that are tried for a block of 4 bits, relative to the one that reaches its largest weight."""
Bits = Literal[4, 8]


def quantise_blocks(model: ir.Model, *, bits: Bits, wide: Collection[str] = ()) -> ir.Model:
    """`model` with the constant right operands `(in, out)` of its MatMuls stored in blocks of `bits`, symmetric.

    Products whose results have the names `wide` take 8 bits. What is looked up rather than multiplied (embeddings)
    stays float32. `model` stays as it is.
    """
    model = model.clone()
    packed: dict[tuple[ir.Value, Bits], list[ir.Value]] = {}
    for node in list(model.graph):
        weight = node.inputs[1] if node.op_type == "MatMul" and node.domain == "" else None
        if weight is None or weight.const_value is None or len(weight.const_value.shape) != 2:
            continue
        width: Bits = 8 if node.outputs[0].name in wide else bits
        if (weight, width) not in packed:
            packed[weight, width] = _packed(model.graph, weight, width)
        _replace(model.graph, node, packed[weight, width], width)
    model.opset_imports[CONTRIB] = 1
    RemoveUnusedNodesPass()(model)
    return model


def _packed(graph: ir.Graph, weight: ir.Value, bits: Bits) -> list[ir.Value]:
    """New initializers: numbers `(out, blocks, bytes)` uint8 and scales `(out * blocks,)`."""
    assert weight.const_value is not None  # noqa: S101 (see quantise_blocks)
    numbers, scales = pack(weight.const_value.numpy(), bits)
    values = []
    for array, kind in ((numbers, "blocks"), (scales, "scales")):
        tensor = ir.Tensor(array, name=f"{weight.name}.{kind}{bits}")
        values.append(
            ir.Value(
                name=tensor.name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
            )
        )
        graph.register_initializer(values[-1])
    return values


def _replace(graph: ir.Graph, node: ir.Node, packed: list[ir.Value], bits: Bits) -> None:
    rows, columns = dims_of(node.inputs[1])
    attributes = {"K": rows, "N": columns, "bits": bits, "block_size": BLOCK_SIZE}
    product = ir.node(
        "MatMulNBits", [node.inputs[0], *packed], attributes | {"accuracy_level": ACCURACY_LEVEL}, domain=CONTRIB
    )
    old, new = node.outputs[0], product.outputs[0]
    new.type, new.shape = old.type, old.shape
    graph.insert_before(node, product)
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    new.name, old.name = old.name, None


def pack(weight: np.ndarray, bits: Bits) -> tuple[np.ndarray, np.ndarray]:
    """`weight` `(in, out)` in blocks: numbers `(out, blocks, bytes)` uint8, scales `(out * blocks,)` float32.

    A number `q` stands for `(q - 2 ** (bits - 1)) * scale`; of 4 bits, the first of two is the lower half of a byte.
    """
    rows, columns = weight.shape
    padded = np.pad(weight.T.astype(np.float32), ((0, 0), (0, -rows % BLOCK_SIZE)))
    blocks = padded.reshape(columns, -1, BLOCK_SIZE)
    zero = 2 ** (bits - 1)
    scale = _scales_of_8(blocks) if bits == 8 else _scales_of_4(blocks)
    numbers = np.clip(np.rint(blocks / scale) + zero, 0, 2 * zero - 1).astype(np.uint8)
    if bits == 4:
        numbers = numbers[..., 0::2] | numbers[..., 1::2] << 4
    return numbers, scale.reshape(-1)


def _scales_of_8(blocks: np.ndarray) -> np.ndarray:
    """What brings the largest weight of each block to 127, `(out, blocks, 1)`."""
    largest: np.ndarray = np.abs(blocks).max(-1, keepdims=True)
    return np.maximum(largest / 127, np.finfo(np.float32).tiny).astype(np.float32)


def _scales_of_4(blocks: np.ndarray) -> np.ndarray:
    """Of the scales around the one that brings the largest weight to -8, those with the least squared error."""
    index = np.abs(blocks).argmax(-1)[..., None]
    largest = np.take_along_axis(blocks, index, -1) / -8
    largest = np.where(largest == 0, np.finfo(np.float32).tiny, largest).astype(np.float32)
    best, least = largest, np.full(largest.shape, np.inf, np.float32)
    for shrink in _SHRINKS:
        scale = largest * shrink
        error = ((np.clip(np.rint(blocks / scale), -8, 7) * scale - blocks) ** 2).sum(-1, keepdims=True)
        best, least = np.where(error < least, scale, best), np.minimum(error, least)
    return best
