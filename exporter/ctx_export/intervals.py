"""Abstract interpretation of an ONNX graph: which numbers can each value hold, given bounds of inputs and dimensions?

Every value is described by one `Interval` that covers all its elements. The result is sound: when the graph runs
within the given bounds, every element of every value lies in the value's interval. The argument, once for all
operators:

* Data movement (Gather, Slice, Reshape, ...) produces elements that were there before, so the interval of the data, or
  the hull of several, covers them.
* Arithmetic takes the extremes of exact results over the operands' ends and rounds them to the value's dtype. Rounding
  to nearest is monotone, so no rounded result leaves the rounded ends. Integers that could wrap around become
  unbounded.
* Sums of many floats stay exact while all partial sums of the ends are integers that the dtype represents; by the
  monotonicity of each addition, in whatever order, the sum of any elements lies between the sums of the ends.
* Everything else, and every operator outside the standard domain, is `UNKNOWN`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

_MAX_SCAN = 1 << 20
"""Constants with more elements than this are not scanned: they are weights, and nothing depends on their range."""
_MAX_EXACT = float(1 << 53)
"""Integers beyond this are not exact in the float64 that holds an interval's ends."""
_SIGNIFICAND_BITS = {
    ir.DataType.BFLOAT16: 8,
    ir.DataType.FLOAT16: 11,
    ir.DataType.FLOAT: 24,
    ir.DataType.DOUBLE: 53,
}
"""The floats that overflow to infinity; narrower ones saturate or turn into NaN, and stay unknown."""


@dataclass(frozen=True)
class Interval:
    """All numbers from `lo` to `hi`, both included; `nan`: NaN is possible too. False and True are 0 and 1."""

    lo: float
    hi: float
    nan: bool = False

    def __post_init__(self) -> None:
        if not self.lo <= self.hi:
            raise ValueError(f"an interval needs lo <= hi, got [{self.lo}, {self.hi}]")

    @property
    def constant(self) -> float | None:
        """The only number in the interval, None if there are more."""
        return self.lo if self.lo == self.hi and not self.nan and math.isfinite(self.lo) else None

    @property
    def bounded(self) -> bool:
        """No infinity and no NaN."""
        return math.isfinite(self.lo) and math.isfinite(self.hi) and not self.nan

    def __contains__(self, number: float) -> bool:
        return self.nan if math.isnan(number) else self.lo <= number <= self.hi


UNKNOWN = Interval(-math.inf, math.inf, nan=True)
_FALSE, _TRUE, _EITHER = Interval(0, 0), Interval(1, 1), Interval(0, 1)


@dataclass(frozen=True)
class Window:
    """The part of its data that a Gather or Slice can reach: indices `start..stop-1` of `axis`."""

    axis: int
    start: int
    stop: int


class Intervals:
    """The interval of every value of a graph."""

    def __init__(self, graph: ir.Graph, *, inputs: Mapping[str, Interval], dims: Mapping[str, Interval]) -> None:
        """Interpret `graph`.

        Args:
            graph: its values must carry the shapes of their export; a value without a shape is merely less precise.
            inputs: what graph inputs hold, by name; an input that is missing can hold anything.
            dims: the sizes of symbolic dimensions, by name.
        """
        self._dims = dims
        self._known: dict[ir.Value, Interval] = {}
        for value in graph.inputs:
            self._known[value] = _fit(inputs.get(value.name or "", UNKNOWN), value.dtype)
        for node in graph:
            transfer = _TRANSFER.get(node.op_type) if node.domain == "" else None
            result = UNKNOWN if transfer is None else transfer(node, self)
            for output in node.outputs:
                self._known[output] = _fit(result, output.dtype)

    def __getitem__(self, value: ir.Value | None) -> Interval:
        if value is None:
            return UNKNOWN
        if value not in self._known:
            self._known[value] = _scan(ir.convenience.get_const_tensor(value))
        return self._known[value]

    def dims(self, value: ir.Value) -> tuple[Interval, ...] | None:
        """The size of every dimension of `value`, None if its rank is unknown."""
        if value.shape is None:
            return None
        return tuple(self._dim(dim) for dim in value.shape)

    def _dim(self, dim: int | ir.SymbolicDim) -> Interval:
        if isinstance(dim, int):
            return Interval(dim, dim)
        return self._dims.get(dim.value or "", Interval(0, math.inf))

    def window(self, node: ir.Node) -> Window | None:
        """What `node`, a standard Gather or Slice of a constant along one axis, can reach; None if unknown or all."""
        data = node.inputs[0]
        if data is None or data.shape is None or ir.convenience.get_const_tensor(data) is None:
            return None
        axis, start, stop = self._gathered(node) if node.op_type == "Gather" else self._sliced(node)
        if axis is None or not 0 <= start < stop < math.inf:
            return None
        axis, shape = int(axis) % len(data.shape), data.shape.numpy()
        return Window(axis, int(start), int(stop)) if start > 0 or stop < shape[axis] else None

    def _gathered(self, node: ir.Node) -> tuple[float | None, float, float]:
        """Axis, first index and the one after the last that a Gather reads."""
        indices = self[node.inputs[1]]
        return node.attributes.get_int("axis", 0), indices.lo, indices.hi + 1

    def _sliced(self, node: ir.Node) -> tuple[float | None, float, float]:
        """The same of a Slice; the axis is None where it isn't one alone, or may be read backwards or from the end."""
        start, stop = self[node.inputs[1]], self[node.inputs[2]]
        axis, step = (
            self[node.inputs[at]].constant if len(node.inputs) > at and node.inputs[at] is not None else default
            for at, default in ((3, 0), (4, 1))
        )
        forwards = step == 1 and stop.lo >= 0 and _size(node.inputs[1]) == 1
        return axis if forwards else None, start.lo, stop.hi


def _size(value: ir.Value | None) -> int | None:
    """The number of elements, None if unknown."""
    if value is None or value.shape is None or not value.shape.is_static():
        return None
    return math.prod(value.shape.numpy())


def _scan(tensor: ir.TensorProtocol | None) -> Interval:
    """The interval of a constant."""
    if tensor is None or not 0 < tensor.size <= _MAX_SCAN or tensor.dtype == ir.DataType.STRING:
        return UNKNOWN
    return _hull_of_array(tensor.numpy())


def _hull_of_array(array: np.ndarray) -> Interval:
    if array.size == 0 or np.iscomplexobj(array):
        return UNKNOWN
    numbers = array.astype(np.float64)
    nan = bool(np.isnan(numbers).any())
    if nan and np.isnan(numbers).all():
        return UNKNOWN
    return Interval(float(np.nanmin(numbers)), float(np.nanmax(numbers)), nan)


def _fit(interval: Interval, dtype: ir.DataType | None) -> Interval:
    """The interval as values of `dtype` hold it: floats rounded, integers that could wrap around unbounded."""
    if dtype is None:
        return UNKNOWN
    if dtype == ir.DataType.BOOL:
        return Interval(max(interval.lo, 0), min(interval.hi, 1)) if interval.bounded else _EITHER
    if dtype in _SIGNIFICAND_BITS:
        with np.errstate(over="ignore"):
            lo, hi = (float(np.float64(end).astype(dtype.numpy())) for end in (interval.lo, interval.hi))
        return Interval(lo, hi, interval.nan)
    if not dtype.is_integer():
        return UNKNOWN
    least, most = (max(dtype.min, -_MAX_EXACT), min(dtype.max, _MAX_EXACT))
    fits = not interval.nan and least <= interval.lo and interval.hi <= most
    return interval if fits else Interval(-math.inf, math.inf)


def _hull(intervals: Iterable[Interval]) -> Interval:
    every = list(intervals)
    return Interval(min(i.lo for i in every), max(i.hi for i in every), any(i.nan for i in every))


def _is_float(node: ir.Node) -> bool:
    dtype = node.inputs[0].dtype if node.inputs and node.inputs[0] is not None else None
    return dtype is None or dtype.is_floating_point()


Transfer = Callable[[ir.Node, Intervals], Interval]


def _data(node: ir.Node, known: Intervals) -> Interval:
    """Operators whose elements all come from their first input."""
    return known[node.inputs[0]]


def _reach(node: ir.Node, known: Intervals) -> Interval:
    """Gather and Slice: of a constant, only the part within reach counts."""
    window = known.window(node)
    tensor = ir.convenience.get_const_tensor(node.inputs[0]) if node.inputs[0] is not None else None
    if window is None or tensor is None or tensor.size > _MAX_SCAN:
        return known[node.inputs[0]]
    part = np.moveaxis(tensor.numpy(), window.axis, 0)[window.start : window.stop]
    return _hull_of_array(part) if part.size else known[node.inputs[0]]


def _all(node: ir.Node, known: Intervals) -> Interval:
    return _hull(known[value] for value in node.inputs)


def _constant(node: ir.Node, known: Intervals) -> Interval:
    return _scan(ir.convenience.get_const_tensor(node.outputs[0]))


def _constant_of_shape(node: ir.Node, known: Intervals) -> Interval:
    value = node.attributes.get_tensor("value")
    return Interval(0, 0) if value is None else _scan(value)


def _shape(node: ir.Node, known: Intervals) -> Interval:
    dims = known.dims(node.inputs[0]) if node.inputs[0] is not None else None
    if dims is None:
        return Interval(0, math.inf)
    wanted = dims[slice(node.attributes.get_int("start", 0), node.attributes.get_int("end"))]
    return _hull(wanted) if wanted else Interval(0, math.inf)


def _range(node: ir.Node, known: Intervals) -> Interval:
    start, limit, step = (known[value] for value in node.inputs)
    if not (step.bounded and step.lo > 0) or start.nan or limit.nan or _is_float(node):
        return UNKNOWN
    return Interval(start.lo, max(start.lo, limit.hi - 1))


def _cast(node: ir.Node, known: Intervals) -> Interval:
    operand, to = known[node.inputs[0]], ir.DataType(node.attributes["to"].as_int())
    if to == ir.DataType.BOOL:
        return _FALSE if operand.constant == 0 else _EITHER if 0 in operand else _TRUE
    if not to.is_integer() or not operand.bounded:
        return operand if to.is_floating_point() else UNKNOWN
    return Interval(math.trunc(operand.lo), math.trunc(operand.hi))


def _where(node: ir.Node, known: Intervals) -> Interval:
    condition, yes, no = (known[value] for value in node.inputs)
    if condition.constant is None:
        return _hull((yes, no))
    return yes if condition.constant else no


def _not(node: ir.Node, known: Intervals) -> Interval:
    operand = known[node.inputs[0]]
    return Interval(1 - operand.hi, 1 - operand.lo)


def _xor(node: ir.Node, known: Intervals) -> Interval:
    a, b = (known[value].constant for value in node.inputs)
    return _EITHER if a is None or b is None else Interval(a != b, a != b)


def _comparison(certain: Callable[[Interval, Interval], bool], never: Callable[[Interval, Interval], bool]) -> Transfer:
    """True where `certain` and no NaN is involved; a comparison with NaN is false."""

    def transfer(node: ir.Node, known: Intervals) -> Interval:
        a, b = (known[value] for value in node.inputs)
        if certain(a, b) and not (a.nan or b.nan):
            return _TRUE
        return _FALSE if never(a, b) else _EITHER

    return transfer


def _corners(operation: Callable[[float, float], float]) -> Transfer:
    """Operators of two numbers that are monotone in each: their extremes are at the ends of the operands."""

    def transfer(node: ir.Node, known: Intervals) -> Interval:
        a, b = (known[value] for value in node.inputs)
        if not (a.bounded and b.bounded):
            return UNKNOWN
        corners = [operation(x, y) for x, y in itertools.product((a.lo, a.hi), (b.lo, b.hi))]
        return Interval(min(corners), max(corners))

    return transfer


def _divide(node: ir.Node, known: Intervals) -> Interval:
    if 0 in known[node.inputs[1]]:
        return UNKNOWN
    quotient = _corners(lambda x, y: x / y)(node, known)
    if _is_float(node) or not quotient.bounded:
        return quotient
    return Interval(math.trunc(quotient.lo), math.trunc(quotient.hi))


def _fold(choose: Callable[[Iterable[float]], float]) -> Transfer:
    """Min and Max of any number of operands; NaN in one is NaN in the result."""

    def transfer(node: ir.Node, known: Intervals) -> Interval:
        operands = [known[value] for value in node.inputs]
        return Interval(choose(i.lo for i in operands), choose(i.hi for i in operands), any(i.nan for i in operands))

    return transfer


def _clip(node: ir.Node, known: Intervals) -> Interval:
    operand, nothing = known[node.inputs[0]], Interval(-math.inf, math.inf)
    least, most = (known[value] if value is not None else nothing for value in (*node.inputs[1:3], None, None)[:2])
    if least.nan or most.nan:
        return UNKNOWN
    lo, hi = (min(max(x, a), b) for x, a, b in ((operand.lo, least.lo, most.lo), (operand.hi, least.hi, most.hi)))
    return Interval(lo, hi, operand.nan)


def _negate(node: ir.Node, known: Intervals) -> Interval:
    operand = known[node.inputs[0]]
    return Interval(-operand.hi, -operand.lo, operand.nan)


def _absolute(node: ir.Node, known: Intervals) -> Interval:
    operand = known[node.inputs[0]]
    ends = abs(operand.lo), abs(operand.hi)
    return Interval(0 if 0 in operand else min(ends), max(ends), operand.nan)


def _sign(node: ir.Node, known: Intervals) -> Interval:
    operand = known[node.inputs[0]]
    return UNKNOWN if operand.nan else Interval(float(np.sign(operand.lo)), float(np.sign(operand.hi)))


def _is_nan(node: ir.Node, known: Intervals) -> Interval:
    return _EITHER if known[node.inputs[0]].nan else _FALSE


def _axes(node: ir.Node, known: Intervals) -> list[int] | None:
    """The axes of a reduction, None where they are not constant; all axes if none are given."""
    operand = node.inputs[0]
    nothing_if_empty = node.attributes.get_int("noop_with_empty_axes", 0)
    if operand is None or operand.shape is None or nothing_if_empty:
        return None
    if len(node.inputs) < 2 or node.inputs[1] is None:
        return list(node.attributes.get_ints("axes", range(len(operand.shape))))
    tensor = ir.convenience.get_const_tensor(node.inputs[1])
    return None if tensor is None else [int(axis) for axis in tensor.numpy().ravel()]


def _count(node: ir.Node, known: Intervals) -> Interval | None:
    """How many elements go into one result of a reduction or cumulative sum."""
    axes, operand = _axes(node, known), node.inputs[0]
    dims = known.dims(operand) if operand is not None else None
    if axes is None or dims is None:
        return None
    sizes = [dims[axis] for axis in axes]
    return Interval(math.prod(size.lo for size in sizes), math.prod(size.hi for size in sizes))


def _sum(item: Interval, count: Interval, dtype: ir.DataType | None) -> Interval:
    """The sum of `count` numbers of `item`, rounded to `dtype` after each addition in any order."""
    if not item.bounded or dtype is None or not (dtype in _SIGNIFICAND_BITS or dtype.is_integer()):
        return UNKNOWN
    if math.isfinite(count.hi):
        corners = [n * x for n, x in itertools.product((count.lo, count.hi), (item.lo, item.hi))]
        largest = max(abs(corner) for corner in corners)
        exact = dtype.is_integer() or (
            item.lo.is_integer() and item.hi.is_integer() and largest <= 2 ** _SIGNIFICAND_BITS[dtype]
        )
        if exact:
            return Interval(min(corners), max(corners))
    return Interval(item.lo, math.inf) if item.lo >= 0 and count.lo >= 1 else UNKNOWN


def _reduce_sum(node: ir.Node, known: Intervals) -> Interval:
    count = _count(node, known)
    return UNKNOWN if count is None else _sum(known[node.inputs[0]], count, node.outputs[0].dtype)


def _reduce_extreme(node: ir.Node, known: Intervals) -> Interval:
    count = _count(node, known)
    return known[node.inputs[0]] if count is not None and count.lo >= 1 else UNKNOWN


def _cumulative_sum(node: ir.Node, known: Intervals) -> Interval:
    count = _count(node, known)
    if count is None:
        return UNKNOWN
    fewest = 0 if node.attributes.get_int("exclusive", 0) else 1
    return _sum(known[node.inputs[0]], Interval(fewest, max(fewest, count.hi)), node.outputs[0].dtype)


def _monotone(operation: Callable[[float], float]) -> Transfer:
    def transfer(node: ir.Node, known: Intervals) -> Interval:
        operand = known[node.inputs[0]]
        return Interval(operation(operand.lo), operation(operand.hi)) if operand.bounded else UNKNOWN

    return transfer


_MOVES = ["Identity", "Squeeze", "Unsqueeze", "Reshape", "Flatten", "Transpose", "Expand", "Tile", "Split", "GatherND"]
_TRANSFER: dict[str, Transfer] = {
    **dict.fromkeys([*_MOVES, "GatherElements"], _data),
    "Gather": _reach,
    "Slice": _reach,
    "Concat": _all,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Shape": _shape,
    "Range": _range,
    "Cast": _cast,
    "Where": _where,
    "And": _fold(min),
    "Or": _fold(max),
    "Not": _not,
    "Xor": _xor,
    "Less": _comparison(lambda a, b: a.hi < b.lo, lambda a, b: a.lo >= b.hi),
    "LessOrEqual": _comparison(lambda a, b: a.hi <= b.lo, lambda a, b: a.lo > b.hi),
    "Greater": _comparison(lambda a, b: a.lo > b.hi, lambda a, b: a.hi <= b.lo),
    "GreaterOrEqual": _comparison(lambda a, b: a.lo >= b.hi, lambda a, b: a.hi < b.lo),
    "Equal": _comparison(lambda a, b: a.constant is not None and a == b, lambda a, b: a.hi < b.lo or b.hi < a.lo),
    "Add": _corners(lambda x, y: x + y),
    "Sub": _corners(lambda x, y: x - y),
    "Mul": _corners(lambda x, y: x * y),
    "Div": _divide,
    "Neg": _negate,
    "Abs": _absolute,
    "Sign": _sign,
    "Min": _fold(min),
    "Max": _fold(max),
    "Clip": _clip,
    "Ceil": _monotone(math.ceil),
    "Floor": _monotone(math.floor),
    "IsNaN": _is_nan,
    "ReduceSum": _reduce_sum,
    "ReduceMax": _reduce_extreme,
    "ReduceMin": _reduce_extreme,
    "CumSum": _cumulative_sum,
}
