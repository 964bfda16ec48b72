import numpy as np
import onnx
import pytest

from ctx_runtime.backends.onnxruntime import OrtSession
from ctx_runtime.errors import BackendError, MemoryBudgetError
from tests.fixtures.bundles import edit_graph, expected, write_tiny_bundle

IDS = np.array([[3, 4, 5]])


@pytest.fixture
def root(tmp_path):
    return write_tiny_bundle(tmp_path / "b")


def test_a_graph_runs_and_names_its_outputs(root):
    session = OrtSession(root / "graphs/ctx-16.unmasked.onnx", threads=1)
    outputs = session.run({"input_ids": IDS}, bucket="ctx-16")
    assert session.inputs == {"input_ids"} and session.backend == "onnxruntime-cpu"
    for name, value in expected(IDS).items():
        np.testing.assert_allclose(outputs[name], value, atol=1e-6)


def test_an_absent_execution_provider_is_an_error_not_a_silent_cpu(root):
    with pytest.raises(BackendError, match="no CUDAExecutionProvider"):
        OrtSession(root / "graphs/ctx-16.onnx", backend="onnxruntime-cuda")


@pytest.mark.parametrize("content", [b"", b"not onnx", b"\x08\x09\xff\xfe" * 50])
def test_a_file_that_is_no_graph_is_one_clear_line(tmp_path, content):
    (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises(BackendError, match=r"can't open x\.onnx") as caught:
        OrtSession(tmp_path / "x.onnx")
    assert "\n" not in str(caught.value)


def test_feeds_that_the_graph_refuses_are_one_clear_line(root):
    session = OrtSession(root / "graphs/ctx-16.unmasked.onnx")
    with pytest.raises(BackendError, match="ctx-16 failed") as caught:
        session.run({"input_ids": np.zeros((1, 3), np.float32)}, bucket="ctx-16")
    assert "\n" not in str(caught.value)


def test_no_memory_is_a_memory_error(root):
    def widen(model):
        model.graph.node.append(onnx.helper.make_node("Expand", ["hidden", "huge"], ["wide"]))
        model.graph.node.append(onnx.helper.make_node("ReduceMax", ["wide"], ["most"]))
        model.graph.output.append(onnx.helper.make_tensor_value_info("most", onnx.TensorProto.FLOAT, None))
        model.graph.initializer.append(onnx.helper.make_tensor("huge", onnx.TensorProto.INT64, [3], [1 << 40, 3, 4]))

    edit_graph(root, widen, "graphs/ctx-16.unmasked.onnx")
    session = OrtSession(root / "graphs/ctx-16.unmasked.onnx")
    with pytest.raises(MemoryBudgetError, match="no memory left"):
        session.run({"input_ids": IDS}, bucket="ctx-16")


def test_a_closed_session_is_an_error(root):
    session = OrtSession(root / "graphs/ctx-16.unmasked.onnx")
    session.close()
    with pytest.raises(BackendError, match="closed"):
        session.run({"input_ids": IDS}, bucket="ctx-16")
