from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from ctx_export.intervals import Interval
from ctx_export.lowering import lower_for_onnxruntime
from ctx_export.specialising import specialise
from tests.fixtures.graphs import MAX_LENGTH, exported, op_types, run, source

KINDS = ["bert", "roberta", "modernbert", "module"]
HEADS, WIDTH = 2, 4


def mask_of(kind: str) -> str:
    return next(spec.name for spec in source(kind).inputs if spec.role == "mask")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("masked", [True, False])
def test_the_lowered_graph_gives_the_same_answers(kind, masked):
    graph = specialise(exported(kind), length=Interval(1, MAX_LENGTH), all_ones=None if masked else mask_of(kind))
    lowered = lower_for_onnxruntime(graph)
    assert "Attention" not in op_types(lowered)
    for lengths in [(1,), (MAX_LENGTH,), (21, 21, 21)] + [(30, 1, 17)] * masked:
        arrays = source(kind).example(len(lengths), lengths)
        expected, found = run(graph, arrays), run(lowered, arrays)
        for name in expected:
            np.testing.assert_allclose(found[name], expected[name], atol=1e-5, err_msg=name)


def test_heads_are_neither_split_nor_merged_around_the_lowered_attention():
    for mask in (None, "attention_mask"):
        lowered = lower_for_onnxruntime(specialise(exported("bert"), length=Interval(1, MAX_LENGTH), all_ones=mask))
        assert not {"Transpose", "Reshape"}.intersection(op_types(lowered))
        assert op_types(lowered).count("MultiHeadAttention") == 2


def test_rotary_embedding_moves_to_the_merged_heads():
    lowered = lower_for_onnxruntime(exported("modernbert"))
    assert "Transpose" not in op_types(lowered)
    assert {len(node.inputs[0].shape) for node in lowered.graph if node.op_type == "RotaryEmbedding"} == {3}


def test_what_onnxruntime_runs_best_already_stays():
    before, after = op_types(exported("bert")), op_types(lower_for_onnxruntime(exported("bert")))
    for kept in ("Gelu", "LayerNormalization", "MatMul", "Add"):
        assert after.count(kept) == before.count(kept) > 0


def test_the_given_graph_stays_as_it_is():
    before = ir.to_proto(exported("bert")).SerializeToString(deterministic=True)
    lower_for_onnxruntime(exported("bert"))
    assert ir.to_proto(exported("bert")).SerializeToString(deterministic=True) == before


def attention(
    *, key_heads: int = HEADS, mask: tuple[str | int, ...] = (), dtype: ir.DataType = ir.DataType.BOOL, **attributes
) -> ir.Model:
    """Attention over inputs `(batch, heads, length, width)`; what it returns is read by head, not merged."""

    def value(name, dims, dtype=ir.DataType.FLOAT):
        return ir.Value(name=name, shape=ir.Shape(dims), type=ir.TensorType(dtype))

    dims = ["batch", HEADS, "length", WIDTH]
    inputs = [value("query", dims), *(value(n, ["batch", key_heads, "length", WIDTH]) for n in ("key", "value"))]
    inputs += [value("mask", mask, dtype)] if mask else []
    node = ir.node("Attention", inputs, attributes, outputs=[value("attended", dims)])
    double = ir.node("Add", [node.outputs[0]] * 2, outputs=[value("out", dims)])
    return ir.Model(ir.Graph(inputs, double.outputs, nodes=[node, double], opset_imports={"": 23}), ir_version=10)


def example(model: ir.Model, batch: int, length: int) -> dict[str, np.ndarray]:
    random, arrays = np.random.default_rng(0), {}
    for value in model.graph.inputs:
        shape = [{"batch": batch, "length": length}.get(str(dim), dim) for dim in value.shape]
        numbers = random.normal(size=shape).astype(np.float32)
        arrays[value.name] = numbers > -1 if value.dtype == ir.DataType.BOOL else numbers
    return arrays


@pytest.mark.parametrize(
    "model",
    [
        attention(),
        attention(scale=0.3),
        attention(is_causal=1),
        attention(mask=("length", "length")),
        attention(mask=(HEADS, "length", "length"), dtype=ir.DataType.FLOAT),
        attention(mask=("batch", 1, "length", "length")),
        attention(mask=("batch", HEADS, "length", "length"), dtype=ir.DataType.FLOAT),
    ],
    ids=["plain", "scale", "causal", "bool-2d", "float-3d", "bool-4d", "float-4d"],
)
def test_every_form_that_the_operator_expresses_is_lowered(model):
    lowered = lower_for_onnxruntime(model)
    assert "MultiHeadAttention" in op_types(lowered)
    assert "Attention" not in op_types(lowered)
    for batch, length in [(1, 1), (1, 9), (3, 8)]:
        arrays = example(model, batch, length)
        np.testing.assert_allclose(run(lowered, arrays)["out"], run(model, arrays)["out"], atol=1e-5)


@pytest.mark.parametrize(
    "model",
    [attention(key_heads=1), attention(softcap=2.0), attention(mask=("batch", 1, 1, "length"))],
    ids=["grouped-keys", "softcap", "one-mask-row"],
)
def test_what_the_operator_cannot_express_stays_standard(model):
    assert op_types(lower_for_onnxruntime(model)) == op_types(model)
