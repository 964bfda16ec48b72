from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctx_export.intervals import UNKNOWN, Interval, Intervals, Window
from tests.fixtures.graphs import run

INT, FLOAT, BOOL = ir.DataType.INT64, ir.DataType.FLOAT, ir.DataType.BOOL
COLUMNS, LENGTH = 3, Interval(1, 5)
NAN = float("nan")


class Builder:
    """A graph in the making; every value is `(length, 3)` unless said otherwise."""

    def __init__(self, **inputs: ir.DataType) -> None:
        self.graph = ir.Graph([], [], nodes=[], opset_imports={"": 23}, name="g")
        for name, dtype in inputs.items():
            self.graph.inputs.append(
                ir.Value(name=name, shape=ir.Shape(["length", COLUMNS]), type=ir.TensorType(dtype))
            )

    def constant(self, numbers: object, dtype: ir.DataType = INT) -> ir.Value:
        tensor = ir.tensor(np.array(numbers, dtype.numpy()), name=f"c{len(self.graph.initializers)}")
        value = ir.Value(name=tensor.name, shape=tensor.shape, type=ir.TensorType(dtype), const_value=tensor)
        self.graph.register_initializer(value)
        return value

    def add(self, op_type: str, *inputs: ir.Value, dtype: ir.DataType, dims: object = None, **attributes) -> ir.Value:
        node = ir.node(op_type, inputs, attributes, name=f"n{len(self.graph)}")
        output = node.outputs[0]
        output.name, output.type = f"v{len(self.graph)}", ir.TensorType(dtype)
        output.shape = ir.Shape(["length", COLUMNS] if dims is None else dims)
        self.graph.append(node)
        return output

    def interpret(self, length: Interval = LENGTH, **inputs: Interval) -> Intervals:
        return Intervals(self.graph, inputs=inputs, dims={"length": length})


BINARY = {
    INT: ["Add", "Sub", "Mul", "Min", "Max"],
    FLOAT: ["Add", "Sub", "Mul", "Div", "Min", "Max"],
    BOOL: ["And", "Or", "Xor"],
}
UNARY = {INT: ["Neg", "Abs", "Sign"], FLOAT: ["Neg", "Abs", "Sign", "Ceil", "Floor"], BOOL: ["Not"]}
COMPARISONS = ["Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal"]
FORMS = ["binary", "unary", "compare", "cast", "where", "clip", "sum", "extreme", "cumsum", "gather", "shape", "isnan"]
Step = tuple[str, int, int, int]


def grow(builder: Builder, pool: dict[ir.DataType, list[ir.Value]], step: Step) -> ir.Value:  # noqa: PLR0911 (one form each)
    """One more value, made of those in the pool as `step` says."""
    form, i, j, k = step
    dtype = [INT, FLOAT, BOOL][k % 3]
    number = [INT, FLOAT][k % 2]

    def pick(wanted: ir.DataType, index: int) -> ir.Value:
        return pool[wanted][index % len(pool[wanted])]

    if form == "binary":
        return builder.add(BINARY[dtype][i % len(BINARY[dtype])], pick(dtype, i), pick(dtype, j), dtype=dtype)
    if form == "unary":
        return builder.add(UNARY[dtype][j % len(UNARY[dtype])], pick(dtype, i), dtype=dtype)
    if form == "compare":
        return builder.add(COMPARISONS[(i + j) % 5], pick(number, i), pick(number, j), dtype=BOOL)
    if form == "cast":
        to = [INT, FLOAT, BOOL][j % 3]
        return builder.add("Cast", pick(dtype, i), dtype=to, to=to.value)
    if form == "where":
        return builder.add("Where", pick(BOOL, k), pick(number, i), pick(number, j), dtype=number)
    if form == "clip":
        ends = (builder.constant(end, number) for end in sorted((i % 7 - 3, j % 7 - 3)))
        return builder.add("Clip", pick(number, i), *ends, dtype=number)
    if form in ("sum", "extreme"):
        op_type = "ReduceSum" if form == "sum" else ["ReduceMin", "ReduceMax"][i % 2]
        row = builder.add(op_type, pick(number, i), builder.constant([0]), dtype=number, dims=[1, COLUMNS])
        return builder.add("Add", row, pick(number, j), dtype=number)
    if form == "cumsum":
        flags = {"exclusive": i % 2, "reverse": j % 2}
        return builder.add("CumSum", pick(number, i), builder.constant(k % 2), dtype=number, **flags)
    if form == "gather":
        ends = builder.constant(0), builder.constant(4)
        rows = builder.add("Clip", pick(INT, i), *ends, dtype=INT)
        return builder.add("Gather", builder.constant([i - 9, 7, j, -k, 5]), rows, dtype=INT)
    if form == "isnan":
        return builder.add("IsNaN", pick(FLOAT, i), dtype=BOOL)
    size = builder.add("Shape", pick(dtype, i), dtype=INT, dims=[1], start=0, end=1)
    return builder.add("Add", size, pick(INT, j), dtype=INT)


@given(
    steps=st.lists(st.tuples(st.sampled_from(FORMS), *[st.integers(0, 20)] * 3), min_size=1, max_size=12),
    ints=st.tuples(st.integers(-40, 40), st.integers(0, 50)),
    floats=st.tuples(st.floats(-(2**66), 2**66, width=32), st.floats(0, 2**66, width=32)),
    length=st.integers(1, 5),
    seed=st.integers(0, 999),
)
@settings(max_examples=200, deadline=None)
def test_every_number_of_a_random_graph_lies_in_its_interval(steps, ints, floats, length, seed):
    builder = Builder(i=INT, f=FLOAT, b=BOOL)
    pool = {value.dtype: [value] for value in builder.graph.inputs}
    for step in steps:
        value = grow(builder, pool, step)
        pool[value.dtype].append(value)
    made = [value for values in pool.values() for value in values[1:]]
    builder.graph.outputs.extend(made)

    lo, hi = np.float32(floats[0]), np.float32(floats[0]) + np.float32(floats[1])
    bounds = {"i": Interval(ints[0], sum(ints)), "f": Interval(float(lo), float(hi)), "b": Interval(0, 1)}
    known = builder.interpret(**bounds)
    random, size = np.random.default_rng(seed), (length, COLUMNS)
    arrays = {
        "i": random.choice([ints[0], sum(ints), *random.integers(ints[0], sum(ints) + 1, 3)], size),
        "f": random.choice(np.array([lo, hi, (lo + hi) / 2, np.clip(0, lo, hi)], np.float32), size),
        "b": random.integers(0, 2, size).astype(bool),
    }
    found = run(ir.Model(builder.graph, ir_version=10), arrays)
    for value in made:
        outside = [number for number in found[value.name].ravel() if float(number) not in known[value]]
        assert not outside, f"{value.name} = {value.producer().op_type}: {outside} not in {known[value]}"


def test_an_interval_knows_what_it_holds():
    assert 3 in Interval(1, 3)
    assert 4 not in Interval(1, 3)
    assert NAN not in Interval(-math.inf, math.inf)
    assert NAN in UNKNOWN
    assert Interval(2, 2).constant == 2
    assert Interval(2, 2, nan=True).constant is None
    with pytest.raises(ValueError, match="lo <= hi"):
        Interval(1, 0)


def test_rows_with_a_token_are_never_empty():
    builder = Builder(mask=INT)
    (mask,) = builder.graph.inputs
    tokens = builder.add("ReduceSum", mask, builder.constant([0]), dtype=INT, dims=[1, COLUMNS])
    empty = builder.add("Less", tokens, builder.constant(1), dtype=BOOL)
    assert builder.interpret(mask=Interval(1, 1))[empty] == Interval(0, 0)
    assert builder.interpret(mask=Interval(0, 1))[empty] == Interval(0, 1)


def test_half_precision_sums_are_only_bounded_where_they_are_exact():
    builder = Builder(mask=ir.DataType.FLOAT16)
    total = builder.add(
        "ReduceSum", builder.graph.inputs[0], builder.constant([0]), dtype=ir.DataType.FLOAT16, dims=[1, COLUMNS]
    )
    assert builder.interpret(Interval(1, 2048), mask=Interval(1, 1))[total] == Interval(1, 2048)
    assert builder.interpret(Interval(1, 2049), mask=Interval(1, 1))[total] == Interval(1, math.inf)


def test_integers_that_may_wrap_around_are_unbounded():
    builder = Builder(i=ir.DataType.INT32)
    (value,) = builder.graph.inputs
    product = builder.add("Mul", value, value, dtype=ir.DataType.INT32)
    assert builder.interpret(i=Interval(0, 1000))[product] == Interval(0, 1_000_000)
    assert builder.interpret(i=Interval(0, 100_000))[product] == Interval(-math.inf, math.inf)


def test_zero_times_an_unbounded_float_may_be_nan():
    builder = Builder(zero=FLOAT, any=FLOAT)
    product = builder.add("Mul", *builder.graph.inputs, dtype=FLOAT)
    assert builder.interpret(zero=Interval(0, 0))[product] == UNKNOWN


def test_integer_division_truncates():
    builder = Builder(i=INT)
    quotient = builder.add("Div", builder.graph.inputs[0], builder.constant(4), dtype=INT)
    assert builder.interpret(i=Interval(-7, 7))[quotient] == Interval(-1, 1)


def test_positions_that_count_tokens_end_with_the_length():
    builder = Builder(real=BOOL)
    number = builder.add("Cast", builder.graph.inputs[0], dtype=INT, to=INT.value)
    count = builder.add("CumSum", number, builder.constant(0), dtype=INT)
    position = builder.add("Add", count, builder.constant(1), dtype=INT)
    table = builder.constant(np.zeros((66, 4)), FLOAT)
    gather = builder.add("Gather", table, position, dtype=FLOAT, dims=["length", COLUMNS, 4])
    known = builder.interpret(Interval(1, 32))
    assert known[position] == Interval(1, 33)
    assert known.window(gather.producer()) == Window(axis=0, start=1, stop=34)


def test_a_slice_reaches_as_far_as_the_length():
    builder = Builder(i=INT)
    size = builder.add("Shape", builder.graph.inputs[0], dtype=INT, dims=[1], start=0, end=1)
    table, ends = builder.constant(np.arange(64).reshape(1, 64)), [builder.constant([n]) for n in (0, 1)]
    part = builder.add("Slice", table, ends[0], size, ends[1], dtype=INT, dims=[1, "length"])
    known = builder.interpret(Interval(1, 32))
    assert known.window(part.producer()) == Window(axis=1, start=0, stop=32)
    assert known[part] == Interval(0, 31)


def test_a_range_ends_before_its_limit():
    builder = Builder(i=INT)
    size = builder.add("Shape", builder.graph.inputs[0], dtype=INT, dims=[1], start=0, end=1)
    scalar = builder.add("Squeeze", size, dtype=INT, dims=[])
    positions = builder.add("Range", builder.constant(0), scalar, builder.constant(1), dtype=INT, dims=["length"])
    assert builder.interpret(Interval(1, 8))[positions] == Interval(0, 7)


def test_operators_of_other_domains_and_unknown_ones_may_hold_anything():
    builder = Builder(f=FLOAT)
    tanh = builder.add("Tanh", builder.graph.inputs[0], dtype=FLOAT)
    foreign = builder.add("Abs", builder.graph.inputs[0], dtype=FLOAT)
    foreign.producer().domain = "com.example"
    known = builder.interpret(f=Interval(0, 1))
    assert known[tanh] == known[foreign] == UNKNOWN


@pytest.mark.parametrize(
    ("start", "axis", "step"),
    [(-1, 1, 1), (0, 1, -1), (0, None, 1), (0, 1, None)],
    ids=["from-the-end", "backwards", "any-axis", "any-step"],
)
def test_a_slice_that_may_reach_anything_has_no_window(start, axis, step):
    builder = Builder(i=INT)
    size = builder.add("Shape", builder.graph.inputs[0], dtype=INT, dims=[1], start=0, end=1)
    one = builder.add("Cast", size, dtype=INT, dims=[1], to=INT.value)
    axis_value, step_value = (one if number is None else builder.constant([number]) for number in (axis, step))
    table, first = builder.constant(np.arange(64).reshape(8, 8)), builder.constant([start])
    part = builder.add("Slice", table, first, size, axis_value, step_value, dtype=INT, dims=["n", "m"])
    known = builder.interpret()
    assert known.window(part.producer()) is None
    assert known[part] == Interval(0, 63)
