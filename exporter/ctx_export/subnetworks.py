"""The one graph of a length-adaptive model -> the graph of one of its sub-networks.

The model is exported once, whole. In the graph it marks, by operators of the domain `ctx` that return their input, what
a sub-network changes; `ctx_models.markers` says which. A sub-network takes an earlier exit, the first rows of weights,
and rotary frequencies of its own: its weights are ranges of the whole network's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass, ShapeInferencePass

from ctx_export.views import first_rows
from ctx_runtime.errors import ExportError
from ctx_runtime.resource_profile import SubNetwork

DOMAIN = "ctx"
_PROBE: Mapping[str, int] = {"batch": 3, "length": 1009}
"""Sizes that no other dimension has, to infer the sizes of all others with."""


@dataclass(frozen=True)
class Rotation:
    """Rotary positions at a resolution of their own: float32 inverse frequencies `(head_size / 2,)`, and a factor."""

    inv_freq: np.ndarray
    scale: float


def cut(model: ir.Model, part: SubNetwork | None = None, *, rotation: Rotation | None = None) -> ir.Model:
    """The graph of `part`, without markers; `model` stays as it is, and the new one shares its weights.

    Args:
        model: a graph of the whole network; one without markers is returned as it is.
        part: what of it runs, which the network has; None: all.
        rotation: what takes the place of the whole network's rotary positions, if anything.

    Raises:
        ExportError: what is to be cut is no stored weight.
    """
    part = part or SubNetwork()
    model = model.clone()
    graph = model.graph
    if part.layers is not None:
        _leave_after(graph, part.layers)
    resized = _computed_with_parts(graph) if part.heads is not None or part.ffn is not None else []
    for node in list(graph):
        if node.domain == DOMAIN:
            _resolve(graph, node, part, rotation)
    model.opset_imports.pop(DOMAIN, None)
    RemoveUnusedNodesPass()(model)
    if resized:
        _update_sizes(model, resized)
    return model


def _leave_after(graph: ir.Graph, layers: int) -> None:
    """Let what reads the last layer's exit read that of the first `layers` layers."""
    exits = {node.attributes["layer"].as_int(): node for node in graph if _is_marker(node, "Exit")}
    if exits:  # the fusion of segments has no layers to leave out
        exits[max(exits)].replace_input_with(0, exits[layers].inputs[0])


def _is_marker(node: ir.Node, name: str) -> bool:
    return node.domain == DOMAIN and node.op_type == name


def _resolve(graph: ir.Graph, node: ir.Node, part: SubNetwork, rotation: Rotation | None) -> None:
    """Put what `part` has in the place of a marked value."""
    value = node.inputs[0]
    assert value is not None  # noqa: S101 (a marker has one operand)
    if node.op_type == "Elastic":
        value = _first(graph, node, value, part)
    elif node.op_type == "InvFreq" and rotation is not None:
        value = _constant(graph, f"{value.name}.scaled", rotation.inv_freq)
    elif node.op_type == "RopeScale" and rotation is not None:
        value = _constant(graph, f"{value.name}.scaled", np.array(rotation.scale, np.float32))
    if node.outputs[0].is_graph_output():
        node.domain, node.op_type = "", "Identity"
        node.attributes.clear()
        node.replace_input_with(0, value)
    else:
        ir.convenience.replace_all_uses_with(node.outputs[0], value)


def _first(graph: ir.Graph, node: ir.Node, weight: ir.Value, part: SubNetwork) -> ir.Value:
    """The rows of a marked weight that belong to the heads or feed-forward units of `part`."""
    kind, unit = node.attributes["axis_kind"].as_string(), node.attributes["unit"].as_int()
    count = part.heads if kind == "heads" else part.ffn
    if count is None:
        return weight
    if weight.const_value is None or weight.shape is None:
        raise ExportError(f"{weight.name} is computed: a sub-network can take a part of stored weights only")
    rows = weight.shape.numpy()[0]
    return weight if count * unit >= rows else first_rows(graph, weight, count * unit)


def _constant(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    if name not in graph.initializers:
        tensor = ir.tensor(array, name=name)
        value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        graph.register_initializer(value)
    return graph.initializers[name]


def _computed_with_parts(graph: ir.Graph) -> list[ir.Node]:
    """The nodes that read a marked weight, or what is computed from one."""
    reached: set[ir.Value] = set()
    nodes: list[ir.Node] = []
    for node in graph:
        if _is_marker(node, "Elastic") or reached.intersection(value for value in node.inputs if value is not None):
            reached.update(node.outputs)
            nodes.append(node)
    return [node for node in nodes if node.domain != DOMAIN]


def _update_sizes(model: ir.Model, nodes: list[ir.Node]) -> None:
    """Correct the sizes of what `nodes` compute with fewer rows of weights; dimensions with a name keep it.

    A number that can't be inferred anew is taken away.
    """
    outputs = [output for node in nodes if node.graph is model.graph for output in node.outputs]
    for node in nodes:
        if node.graph is model.graph and node.domain == "" and node.op_type == "Reshape":
            _follow_operand(model.graph, node)
    probe = model.clone()
    unknown = {output.name for output in outputs}
    values = {value.name: value for node in probe.graph for value in node.outputs}
    for value in [*probe.graph.inputs, *values.values()]:
        known = None if value.name in unknown else value.shape
        value.shape = None if known is None else ir.Shape([_PROBE.get(str(dim), dim) for dim in known])
    ShapeInferencePass(check_type=False, strict_mode=False)(probe)
    for output in outputs:
        if output.shape is not None:
            output.shape = _updated(output.shape, values[output.name].shape)


def _follow_operand(graph: ir.Graph, reshape: ir.Node) -> None:
    """Let a Reshape to numbers follow the size of its operand.

    Of a split `(batch, 2, 32)` to `(batch, 2, 4, 8)` or the merge back, the dimensions around stay (0), those within a
    head too, and the heads are what is left (-1).
    """
    operand, target = reshape.inputs
    if operand is None or target is None or ir.convenience.get_const_tensor(target) is None:
        return
    old, new = list(operand.shape or ()), list(reshape.outputs[0].shape or ())
    start = next((axis for axis, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), None)
    if start is None or not all(isinstance(dim, int) for dim in (*old[start:], *new[start:])):
        return
    sizes = [0] * start + [-1] + [int(dim) for dim in new[start + 1 :] if isinstance(dim, int)]
    follow = ir.node("Constant", [], {"value_ints": sizes})
    follow.outputs[0].type, follow.outputs[0].shape = ir.TensorType(ir.DataType.INT64), ir.Shape([len(sizes)])
    graph.insert_before(reshape, follow)
    reshape.replace_input_with(1, follow.outputs[0])
    reshape.attributes.pop("allowzero", None)


def _updated(old: ir.Shape, new: ir.Shape | None) -> ir.Shape:
    """The dimensions of `old` with the numbers of `new`."""
    known = list(new) if new is not None and len(new) == len(old) else [None] * len(old)
    return ir.Shape(
        [
            dim if not isinstance(dim, int) else size if isinstance(size, int) else None
            for dim, size in zip(old, known, strict=True)
        ]
    )
