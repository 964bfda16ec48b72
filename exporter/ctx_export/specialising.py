"""One graph for all lengths -> the graph of one bucket: bounded, without what the bounds make superfluous."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnxscript.optimizer import fold_constants

from ctx_export.intervals import Interval, Intervals, Window
from ctx_export.views import first_rows
from ctx_runtime.errors import ExportError

_ANY_BATCH = Interval(1, math.inf)
_MAX_FOLDED = 1024
"""Values of more elements than this are computed at run time rather than stored in the graph."""


def specialise(
    model: ir.Model, *, length: Interval, batch: Interval = _ANY_BATCH, all_ones: str | None = None
) -> ir.Model:
    """The graph of one bucket: the same answers as `model` for every input within the bounds.

    Operations that the bounds make superfluous are removed, tables are cut to the rows that can be reached, and a
    dimension with a single size becomes static. With `all_ones`, the mask of rows without padding, attention runs
    without a mask, so that its memory grows linearly with the length.

    Args:
        model: the graph of all lengths, with dimensions `batch` and `length`. It stays as it is; the new graph shares
            its weights.
        length: the sizes of `length`, in tokens.
        batch: the sizes of `batch`, in rows.
        all_ones: an input that holds nothing but ones; the new graph does not take it.

    Raises:
        ExportError: the graph has no other input that shows the size of the mask.
    """
    model = model.clone()
    graph, bounds = model.graph, {"batch": batch, "length": length}
    known = Intervals(graph, inputs={all_ones: Interval(1, 1)} if all_ones else {}, dims=bounds)
    _simplify(graph, known)
    _cut_tables(graph, known)
    RemoveUnusedNodesPass()(model)
    if all_ones is not None:
        _replace_by_ones(graph, all_ones)
    if any(interval.constant is not None for interval in bounds.values()):
        _make_static(graph, {name: int(i.lo) for name, i in bounds.items() if i.constant is not None})
        fold_constants(model, output_size_limit=_MAX_FOLDED)
        RemoveUnusedNodesPass()(model)
    for name, interval in bounds.items():
        model.metadata_props[f"ctx_export.{name}"] = f"{interval.lo:.0f}..{interval.hi:.0f}"
    return model


def _simplify(graph: ir.Graph, known: Intervals) -> None:
    """Bypass every operation that returns one of its operands unchanged; drop attention masks that mask nothing."""
    outputs = set(graph.outputs)
    for node in graph:
        if node.domain != "":
            continue
        if node.op_type == "Attention":
            _drop_mask(node, known)
        if outputs.intersection(node.outputs):
            continue
        for kept in _NEUTRAL.get(node.op_type, _nothing)(node, known):
            if kept is not None and _same_type(kept, node.outputs[0]):
                ir.convenience.replace_all_uses_with(node.outputs[0], kept)
                break


def _drop_mask(node: ir.Node, known: Intervals) -> None:
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    if mask is None:
        return
    nothing_masked = 1 if mask.dtype == ir.DataType.BOOL else 0
    if known[mask].constant == nothing_masked:
        node.replace_input_with(3, None)


Kept = Callable[[ir.Node, Intervals], list[ir.Value | None]]
"""The operands that the result equals, if their shape is the result's."""


def _nothing(node: ir.Node, known: Intervals) -> list[ir.Value | None]:
    return []


def _beside(neutral: float, *, either: bool = True) -> Kept:
    """Operands beside one that is `neutral`: `x + 0` is `x`; `either` order will do."""

    def kept(node: ir.Node, known: Intervals) -> list[ir.Value | None]:
        left, right = node.inputs
        operands = [left] if known[right].constant == neutral else []
        return operands + ([right] if either and known[left].constant == neutral else [])

    return kept


def _chosen(node: ir.Node, known: Intervals) -> list[ir.Value | None]:
    condition, yes, no = node.inputs
    constant = known[condition].constant
    return [] if constant is None else [yes if constant else no]


_NEUTRAL: dict[str, Kept] = {
    "Add": _beside(0),
    "Sub": _beside(0, either=False),
    "Mul": _beside(1),
    "Div": _beside(1, either=False),
    "And": _beside(1),
    "Or": _beside(0),
    "Where": _chosen,
}


def _same_type(a: ir.Value, b: ir.Value) -> bool:
    """Whether two values surely have the same dtype and shape; an unnamed dimension equals no other."""
    if a.dtype != b.dtype or a.shape is None or b.shape is None or len(a.shape) != len(b.shape):
        return False
    return all(x == y and (isinstance(x, int) or x.value is not None) for x, y in zip(a.shape, b.shape, strict=True))


def _cut_tables(graph: ir.Graph, known: Intervals) -> None:
    """Let every Gather and Slice read a table that ends after the last row it can reach."""
    for node in list(graph):
        if node.domain != "" or node.op_type not in ("Gather", "Slice"):
            continue
        window, table = known.window(node), node.inputs[0]
        if window is not None and table is not None and table.is_initializer() and _is_prefix(table, window):
            node.replace_input_with(0, first_rows(graph, table, window.stop, axis=window.axis))


def _is_prefix(table: ir.Value, window: Window) -> bool:
    """Whether all up to the window's end is the beginning of the table's bytes, and not the whole table."""
    dims = () if table.shape is None else table.shape.numpy()
    return window.stop < dims[window.axis] and all(dim == 1 for dim in dims[: window.axis])


def _replace_by_ones(graph: ir.Graph, name: str) -> None:
    """Take the input `name` away; what still reads it gets ones of the same size."""
    mask = next(value for value in graph.inputs if value.name == name)
    graph.inputs.remove(mask)
    if not mask.uses():
        return
    twin, rank = _twin(graph, mask), len(mask.shape or ())
    for node in mask.consumers():
        if node.op_type == "Shape" and node.domain == "":
            start, end, _ = slice(node.attributes.get_int("start", 0), node.attributes.get_int("end")).indices(rank)
            node.attributes.update(start=ir.AttrInt64("start", start), end=ir.AttrInt64("end", end))
            node.replace_input_with(0, twin)
    if not mask.uses():
        return
    shape = ir.node("Shape", [twin], {"start": 0, "end": rank}, name=f"{name}.shape")
    one = ir.tensor(np.ones(1, (mask.dtype or ir.DataType.INT64).numpy()))
    ones = ir.node("ConstantOfShape", shape.outputs, {"value": one}, name=f"{name}.ones")
    shape.outputs[0].name, ones.outputs[0].name = f"{name}.shape", f"{name}.ones"
    shape.outputs[0].type, shape.outputs[0].shape = ir.TensorType(ir.DataType.INT64), ir.Shape([rank])
    ones.outputs[0].type, ones.outputs[0].shape = mask.type, mask.shape
    graph.insert_before(graph[0], [shape, ones])
    ir.convenience.replace_all_uses_with(mask, ones.outputs[0])


def _twin(graph: ir.Graph, mask: ir.Value) -> ir.Value:
    """A graph input whose leading dimensions are those of `mask`."""
    dims = tuple(mask.shape or ())
    for value in graph.inputs:
        if value.shape is not None and dims == tuple(value.shape[: len(dims)]):
            return value
    wanted = ", ".join(map(str, dims))
    raise ExportError(
        f"no input beside {mask.name!r} begins with the dimensions ({wanted})",
        hint="give the model another input of that size, or no input with the role `mask`",
    )


def _make_static(graph: ir.Graph, sizes: dict[str, int]) -> None:
    """Give the dimensions of `sizes` their one size, everywhere in the graph."""
    for value in [*graph.inputs, *(output for node in graph for output in node.outputs)]:
        if value.shape is not None:
            value.shape = ir.Shape(
                [dim if isinstance(dim, int) else sizes.get(dim.value or "", dim) for dim in value.shape]
            )
