import numpy as np
import onnx
import onnx_ir as ir
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper

from ctx_export.engines import Bounds
from ctx_export.engines.inspecting import read_header
from ctx_export.engines.worker import build_in_child
from ctx_export.weights import WeightStore
from ctx_runtime.errors import EngineError
from tests.fixtures.engines import request_for, write_graph

pytestmark = pytest.mark.rtx
BOUNDS = Bounds(min=(1, 1), opt=(1, 8), max=(4, 16))
RELU = helper.make_node("Relu", ["x"], ["y"])


def builders():
    """The processes that build an engine now; others, such as a resource tracker, may be there too."""
    return [child for child in psutil.Process().children() if "ctx_export.engines" in " ".join(child.cmdline())]


def refused(request, tmp_path, **options):
    """The message of a build that must fail, which leaves no file and no process."""
    with pytest.raises(EngineError) as error:
        build_in_child(request, tmp_path / "all.engine", **options)
    assert not (tmp_path / "all.engine").exists()
    assert not builders()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_an_engine_is_built_in_a_child_and_reports_itself(tmp_path):
    told = []
    request = request_for(write_graph(tmp_path / "g.onnx", [RELU]), {"x": BOUNDS})
    outcome = build_in_child(request, tmp_path / "all.engine", on_profile=told.append)
    assert outcome.bytes == (tmp_path / "all.engine").stat().st_size == read_header(tmp_path / "all.engine").bytes
    assert outcome.targets == ("sm89",) and outcome.layers == {"ACTIVATION": 1}
    assert outcome.peak_host_bytes > 50 << 20 and told == [0, 1]


def test_an_operator_that_tensorrt_refuses_is_named(tmp_path):
    nodes = [
        helper.make_node("Cast", ["x"], ["d"], to=TensorProto.FLOAT),
        helper.make_node("NonZero", ["d"], ["n"], name="finds_zeros"),
        helper.make_node("Cast", ["n"], ["y"], to=TensorProto.FLOAT),
    ]
    message = refused(request_for(write_graph(tmp_path / "g.onnx", nodes), {"x": BOUNDS}), tmp_path)
    assert "ctx-16 for sm89" in message and "NonZero" in message


def test_inputs_must_be_those_of_the_bundle(tmp_path):
    graph = write_graph(tmp_path / "g.onnx", [RELU])
    message = refused(request_for(graph, {"x": BOUNDS}, inputs={"x": "float16"}), tmp_path)
    assert "input 'x' is DataType.FLOAT in the network, DataType.HALF in the bundle" in message
    message = refused(request_for(graph, {"x": BOUNDS}, inputs={"x": "float32", "mask": "int64"}), tmp_path)
    assert "input 'mask' is None in the network" in message


def test_float64_is_refused_rather_than_narrowed(tmp_path):
    nodes = [
        helper.make_node("Constant", [], ["c"], value=helper.make_tensor("c", TensorProto.DOUBLE, [1], [2.0])),
        helper.make_node("Cast", ["x"], ["d"], to=TensorProto.DOUBLE),
        helper.make_node("Mul", ["d", "c"], ["m"]),
        helper.make_node("Cast", ["m"], ["y"], to=TensorProto.FLOAT),
    ]
    graph = write_graph(tmp_path / "g.onnx", nodes)
    assert "float64" in refused(request_for(graph, {"x": BOUNDS}), tmp_path)


def test_an_empty_file_is_no_graph(tmp_path):
    (tmp_path / "g.onnx").write_bytes(b"")
    assert "holds no graph" in refused(request_for(tmp_path / "g.onnx", {"x": BOUNDS}), tmp_path)


def test_a_build_that_is_killed_says_so(tmp_path):
    def kill(done):
        for child in builders():
            child.kill()

    request = request_for(write_graph(tmp_path / "g.onnx", [RELU]), {"x": BOUNDS})
    assert "was killed by SIGKILL" in refused(request, tmp_path, on_profile=kill)


def test_cancelling_leaves_nothing(tmp_path):
    def cancel(done):
        raise KeyboardInterrupt

    request = request_for(write_graph(tmp_path / "g.onnx", [RELU]), {"x": BOUNDS})
    with pytest.raises(KeyboardInterrupt):
        build_in_child(request, tmp_path / "all.engine", on_profile=cancel)
    assert not (tmp_path / "all.engine").exists() and not builders()


def test_a_memory_limit_ends_the_build(tmp_path):
    request = request_for(write_graph(tmp_path / "g.onnx", [RELU]), {"x": BOUNDS})
    assert "needs more than the 64 MiB" in refused(request, tmp_path, memory_limit_bytes=64 << 20)


def test_weights_that_share_their_bytes_build(tmp_path):
    """Biases of zeros are stored once, the shorter ones as the beginning of the longest."""
    constants = {"w": np.eye(512, 1024), "one": np.ones(512), "short": np.zeros(512), "long": np.zeros(1024)}
    nodes = [
        helper.make_node("LayerNormalization", ["x", "one", "short"], ["n"]),
        helper.make_node("MatMul", ["n", "w"], ["m"]),
        helper.make_node("Add", ["m", "long"], ["y"]),
    ]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])
        for name, size in (("x", 512), ("y", 1024))
    ]
    tensors = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    with WeightStore(tmp_path / "weights.bin") as store:
        store.save_graph(ir.from_proto(model), tmp_path / "g.onnx")
    bounds = Bounds(min=(1, 512), opt=(1, 512), max=(4, 512))
    outcome = build_in_child(request_for(tmp_path / "g.onnx", {"x": bounds}), tmp_path / "all.engine")
    assert outcome.layers["NORMALIZATION"] == 1


def test_quantised_activations_build(tmp_path):
    """Static QuantizeLinear and DequantizeLinear around a product, as a calibrated model has them."""
    scale = {"s": helper.make_tensor("s", TensorProto.FLOAT, [], [0.1]), "z": helper.make_tensor("z", 3, [], [0])}
    weight = helper.make_tensor("w", TensorProto.INT8, [32, 32], [index % 7 - 3 for index in range(1024)])
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["v"]),
        helper.make_node("MatMul", ["d", "v"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 32]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [*scale.values(), weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "g.onnx")
    bounds = Bounds(min=(1, 32), opt=(1, 32), max=(4, 32))
    outcome = build_in_child(request_for(tmp_path / "g.onnx", {"x": bounds}), tmp_path / "all.engine")
    assert outcome.layers["QUANTIZE"] == 1 and outcome.layers["DEQUANTIZE"] == 2
