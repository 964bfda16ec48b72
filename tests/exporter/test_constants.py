import numpy as np
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from ctx_export import constants
from ctx_export.constants import compute_constants
from tests.fixtures.graphs import exported, op_types, run


def relative():
    """`x + LayerNormalization(table) @ weight`, of which only the sum depends on the input."""
    random, floats = np.random.default_rng(0), TensorProto.FLOAT
    shapes = {"table": (2, 4), "scale": (4,), "weight": (4, 3)}
    weights = [numpy_helper.from_array(random.normal(size=s).astype(np.float32), n) for n, s in shapes.items()]
    nodes = [
        helper.make_node("LayerNormalization", ["table", "scale"], ["normal"]),
        helper.make_node("MatMul", ["normal", "weight"], ["projected"]),
        helper.make_node("Gather", ["projected", "first"], ["row"]),
        helper.make_node("Add", ["x", "row"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", floats, ["batch", 3])],
        [helper.make_tensor_value_info("y", floats, ["batch", 3])],
        [*weights, numpy_helper.from_array(np.array([0]), "first")],
    )
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10))


def test_what_depends_on_weights_alone_is_computed_once():
    model, arrays = relative(), {"x": np.ones((2, 3), np.float32)}
    before = run(relative(), arrays)
    compute_constants(model)
    assert op_types(model) == ["Add"]
    for name, value in run(model, arrays).items():
        np.testing.assert_allclose(value, before[name], atol=1e-6)


def test_a_large_result_stays_a_computation(monkeypatch):
    monkeypatch.setattr(constants, "_MAX_BYTES", 8)
    model = relative()
    compute_constants(model)
    assert "MatMul" in op_types(model)


def test_a_graph_without_such_values_stays_as_it_is():
    model = exported("bert").clone()
    nodes = op_types(model)
    compute_constants(model)
    assert op_types(model) == nodes
