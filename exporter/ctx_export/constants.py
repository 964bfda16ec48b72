"""Computes what depends on weights alone at build time: the projections of relative positions, say."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
from onnx_ir.passes.common import RemoveUnusedNodesPass

_MAX_BYTES = 64 << 20
"""A larger result stays a computation: storing it would cost more than it saves."""


def compute_constants(model: ir.Model) -> None:
    """Replace every value that no input reaches, and that a node computes, by an initializer."""
    graph = model.graph
    constant = {value for value in graph.initializers.values() if value.const_value is not None}
    nodes: list[ir.Node] = []
    for node in graph:
        if not node.inputs and node.op_type == "Constant":
            constant.update(node.outputs)
        elif node.domain == "" and node.inputs and all(value is None or value in constant for value in node.inputs):
            constant.update(node.outputs)
            nodes.append(node)
    computed = [value for node in nodes for value in node.outputs if _leaves(value, constant)]
    for value, result in zip(computed, _run(model, computed), strict=True):
        if result.nbytes <= _MAX_BYTES:
            _replace(graph, value, result)
    RemoveUnusedNodesPass()(model)


def _leaves(value: ir.Value, constant: set[ir.Value]) -> bool:
    """Whether a node that depends on an input reads `value`."""
    return any(output not in constant for node in value.consumers() for output in node.outputs)


def _run(model: ir.Model, values: list[ir.Value]) -> list[np.ndarray]:
    """The numbers of `values`, none of which depends on an input."""
    if not values:
        return []
    model = model.clone()
    graph, names = model.graph, [value.name for value in values]
    by_name = {output.name: output for node in graph for output in node.outputs}
    graph.inputs.clear()
    graph.outputs[:] = [by_name[name] for name in names]
    RemoveUnusedNodesPass()(model)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    results: list[np.ndarray] = session.run(names, {})
    return results


def _replace(graph: ir.Graph, value: ir.Value, result: np.ndarray) -> None:
    name = f"{value.name}.constant"
    stored = ir.Value(
        name=name,
        type=ir.TensorType(ir.DataType.from_numpy(result.dtype)),
        shape=ir.Shape(result.shape),
        const_value=ir.tensor(result, name=name),
    )
    graph.register_initializer(stored)
    ir.convenience.replace_all_uses_with(value, stored)
