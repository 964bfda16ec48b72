import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from ctx_export.intervals import Interval
from ctx_export.lowering import lower_for_onnxruntime
from ctx_export.precision import TOLERANCES, convert
from ctx_export.specialising import specialise
from ctx_runtime.errors import ExportError
from ctx_runtime.parity import compare
from tests.fixtures.graphs import MAX_LENGTH, exported, op_types, run, source

KINDS = ["bert", "modernbert", "module"]
ALL = ["fp16", "bf16", "int8", "int4"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["fp16", "int8", "int4"])
def test_the_converted_graph_answers_within_its_tolerance(kind, precision):
    specs, network = source(kind), convert(exported(kind), precision)
    mask = next(spec.name for spec in specs.inputs if spec.role == "mask")
    for all_ones, lengths in ((None, (MAX_LENGTH, 1, 17)), (mask, (21, 21))):
        graph = lower_for_onnxruntime(specialise(network, length=Interval(1, MAX_LENGTH), all_ones=all_ones))
        arrays = specs.example(len(lengths), lengths)
        case = compare(
            specs.run(arrays), run(graph, arrays), outputs=specs.outputs, bucket="ctx-64", form="masked",
            lengths=lengths, padded_to=max(lengths), tolerance=TOLERANCES[precision],
        )  # fmt: skip
        assert case.passed, (case.max_abs, case.cosine)
        assert case.max_abs > 0 or kind == "module"


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_an_answer_depends_on_its_own_row_only(precision):
    specs = source("bert")
    graph = convert(exported("bert"), precision)
    together = specs.example(2, (40, 9))
    alone = {name: array[1:, :9] for name, array in together.items()}
    batch, single = run(graph, together), run(graph, alone)
    np.testing.assert_allclose(batch["sentence_embedding"][1:], single["sentence_embedding"], atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ALL)
def test_inputs_and_outputs_keep_names_dtypes_and_order(kind, precision):
    before, after = exported(kind).graph, convert(exported(kind), precision).graph
    for kept, found in zip((*before.inputs, *before.outputs), (*after.inputs, *after.outputs), strict=True):
        assert (found.name, found.dtype, found.shape) == (kept.name, kept.dtype, kept.shape)


@pytest.mark.parametrize("precision", ALL)
def test_the_given_graph_stays_as_it_is(precision):
    before = ir.to_proto(exported("modernbert")).SerializeToString(deterministic=True)
    convert(exported("modernbert"), precision)
    assert ir.to_proto(exported("modernbert")).SerializeToString(deterministic=True) == before


def test_fp32_is_the_same_graph():
    assert convert(exported("bert"), "fp32") is exported("bert")


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", ir.DataType.FLOAT16), ("bf16", ir.DataType.BFLOAT16)])
def test_matrix_products_and_their_weights_are_16_bits(precision, dtype):
    graph = convert(exported("modernbert"), precision).graph
    products = [node for node in graph if node.op_type in ("MatMul", "Attention", "LayerNormalization")]
    assert products and all(value.dtype == dtype for node in products for value in (*node.inputs[:2], *node.outputs))
    assert not any(value.dtype == ir.DataType.FLOAT and value.const_value.nbytes > 64
                   for value in graph.initializers.values() if value.uses() and not angles(value))  # fmt: skip


def angles(value: ir.Value) -> bool:
    """Whether a constant belongs to the positions' angles."""
    return any(node.op_type in ("Expand", "Mul", "Cos", "Sin") for node in value.consumers())


def test_angles_of_positions_stay_float32():
    graph = convert(exported("modernbert"), "fp16").graph
    waves = [node for node in graph if node.op_type in ("Sin", "Cos")]
    assert waves and all(node.inputs[0].dtype == ir.DataType.FLOAT for node in waves)


def graph_of(*nodes, constants):
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in ("x", "y")]
    tensors = [helper.make_tensor(name, TensorProto.FLOAT, [2], numbers) for name, numbers in constants.items()]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], tensors)
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10))


@pytest.mark.parametrize(
    ("precision", "finite"), [("fp16", -65504.0), ("bf16", float(ml_dtypes.finfo("bfloat16").min))]
)
def test_a_number_beyond_the_range_becomes_the_largest_and_infinity_stays(precision, finite):
    model = graph_of(helper.make_node("LayerNormalization", ["x", "w"], ["y"]), constants={"w": [-3.4e38, -np.inf]})
    constant = next(
        value.const_value for value in convert(model, precision).graph.initializers.values() if "." in value.name
    )
    assert constant.numpy().astype(np.float64).tolist() == [finite, -np.inf]


def test_a_tiny_divisor_does_not_become_zero():
    nodes = [
        helper.make_node("LayerNormalization", ["x", "w"], ["n"]),
        helper.make_node("Max", ["n", "eps"], ["m"]),
        helper.make_node("Div", ["n", "m"], ["y"]),
    ]
    model = convert(graph_of(*nodes, constants={"w": [0.0, 0.0], "eps": [1e-12, 1e-12]}), "fp16")
    assert np.array_equal(run(model, {"x": np.ones((1, 2), np.float32)})["y"], [[0, 0]])


def test_sums_beyond_the_range_of_float16_are_computed_in_float32():
    nodes = [
        helper.make_node("LayerNormalization", ["x", "w"], ["n"]),
        helper.make_node("Pow", ["n", "two"], ["p"]),
        helper.make_node("ReduceMean", ["p"], ["mean"], keepdims=1),
        helper.make_node("Sqrt", ["mean"], ["root"]),
        helper.make_node("Div", ["n", "root"], ["y"]),
    ]
    model = graph_of(*nodes, constants={"w": [1000.0, 1000.0], "two": [2.0, 2.0]})
    x = np.array([[1, -1]], np.float32)
    np.testing.assert_allclose(run(convert(model, "fp16"), {"x": x})["y"], run(model, {"x": x})["y"], rtol=1e-2)


@pytest.mark.parametrize(("precision", "bits"), [("int8", 8), ("int4", 4)])
def test_weights_of_matrix_products_take_their_bits(precision, bits):
    graph = convert(exported("bert"), precision).graph
    products = [node for node in graph if node.op_type == "MatMul" and node.inputs[1].producer() is not None]
    sources = [node.inputs[1].producer() for node in products]
    quantised = [node for node in sources if node.op_type == "DequantizeLinear"]
    assert len(quantised) >= 8
    for node in quantised:
        stored, scale = (value.const_value for value in node.inputs)
        rows, columns = stored.shape.numpy()
        assert stored.nbytes == rows * columns * bits // 8
        assert scale.shape.numpy() == ((columns,) if bits == 8 else (rows // 32, columns))


def test_a_column_of_zeros_has_a_scale():
    weight = ir.tensor(np.zeros((64, 64), np.float32), name="w")
    x = ir.Value(name="x", shape=ir.Shape(["batch", 64]), type=ir.TensorType(ir.DataType.FLOAT))
    w = ir.Value(name="w", shape=ir.Shape([64, 64]), type=ir.TensorType(ir.DataType.FLOAT), const_value=weight)
    node = ir.node("MatMul", [x, w])
    node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = "y", x.type, x.shape
    graph = ir.Graph([x], node.outputs, nodes=[node], initializers=[w], opset_imports={"": 23})
    answer = run(convert(ir.Model(graph, ir_version=10), "int8"), {"x": np.ones((1, 64), np.float32)})["y"]
    assert np.abs(answer).max() < 1e-30


def test_control_flow_is_refused():
    def constant(name):
        return helper.make_graph(
            [helper.make_node("Constant", [], [name], value_float=1.0)], name, [],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, [])],
        )  # fmt: skip

    condition = helper.make_node("Constant", [], ["c"], value=helper.make_tensor("c", TensorProto.BOOL, [], [True]))
    choice = helper.make_node("If", ["c"], ["i"], then_branch=constant("a"), else_branch=constant("b"))
    model = graph_of(condition, choice, helper.make_node("Add", ["x", "i"], ["y"]), constants={})
    with pytest.raises(ExportError, match="control flow"):
        convert(model, "fp16")


def test_quantised_graphs_multiply_the_same_way():
    assert op_types(convert(exported("bert"), "int8")).count("MatMul") == op_types(exported("bert")).count("MatMul")
