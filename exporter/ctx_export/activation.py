"""Estimates what a row needs in memory while a graph runs: the intermediate results that are alive at the same time."""

from __future__ import annotations

import math

import onnx_ir as ir

from ctx_runtime.manifest import Activation


def estimate_activation(model: ir.Model, *, max_length: int, capacity: int | None = None) -> Activation:
    """Bytes by length of the intermediate results of one row in `model`, lowered for ONNX Runtime.

    Counted from shapes at `max_length` and at half of it, in the order of the nodes; attention with a mask also keeps
    its scores. Weights, arenas and the libraries' own memory are not in it. A dimension of unknown size counts as the
    length. A decoder's cache of `capacity` tokens is not in it either, but attention's scores over it are.
    """
    half = max(1, max_length // 2)
    at_half, at_full = (_peak_bytes(model.graph, length, capacity) for length in (half, max_length))
    if half == max_length:
        return Activation(per_token=at_full)
    slope_half, slope_full = at_half / half, at_full / max_length
    pair = max(0.0, (slope_full - slope_half) / (max_length - half))
    token = max(0.0, slope_full - pair * max_length)
    return Activation(per_token=math.ceil(token), per_token_pair=math.ceil(pair))


def _peak_bytes(graph: ir.Graph, length: int, capacity: int | None) -> int:
    """The largest sum of live results of one row of `length` tokens."""
    last_use = {value: index for index, node in enumerate(graph) for value in node.inputs if value is not None}
    last_use |= {value: len(graph) for value in graph.outputs}
    alive: dict[ir.Value, int] = {}
    peak = 0
    for index, node in enumerate(graph):
        alive |= {value: _bytes(value, length) for value in node.outputs if value in last_use}
        peak = max(peak, sum(alive.values()) + _scratch_bytes(node, length, capacity or length))
        for value in [value for value in alive if last_use[value] <= index]:
            del alive[value]
    return peak


def _bytes(value: ir.Value, length: int) -> int:
    if value.shape is None or value.dtype is None:
        return 0
    if any(not isinstance(dim, int) and dim.value == "capacity" for dim in value.shape):
        return 0  # the cache, which is written in place
    sizes = (dim if isinstance(dim, int) else 1 if dim.value == "batch" else length for dim in value.shape)
    return math.ceil(math.prod(sizes) * value.dtype.itemsize)


def _scratch_bytes(node: ir.Node, length: int, keys: int) -> int:
    """The scores `(heads, length, keys)` of attention that runs with a mask, or in the standard operator."""
    if node.op_type == "Attention" and node.inputs[0] is not None and node.inputs[0].shape is not None:
        heads = node.inputs[0].shape[1]
        return 4 * (heads if isinstance(heads, int) else 1) * length * keys
    masked = node.op_type == "MultiHeadAttention" and len(node.inputs) > 5 and node.inputs[5] is not None
    return 4 * node.attributes.get_int("num_heads", 1) * length * length if masked else 0
