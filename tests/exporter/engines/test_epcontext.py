import onnx
import pytest

from ctx_export.engines.epcontext import epcontext_model, write_epcontext_models
from ctx_runtime import Bundle
from ctx_runtime.errors import EngineError
from ctx_runtime.manifest import EngineRecord
from tests.fixtures.bundles import edit_manifest, rehash, write_tiny_bundle

RECORD = {
    "backend": "tensorrt-rtx",
    "targets": ["sm86", "sm89"],
    "file": "engines/tensorrt-rtx/sm86+sm89/all.engine",
    "library_version": "1.7.1.116",
    "network": "fp32",
    "optimization_profiles": {"ctx-16": 0, "ctx-48": 1},
}


@pytest.fixture
def make_bundle(tmp_path):
    def make(**fields):
        root = write_tiny_bundle(tmp_path / "bundle")
        path = root / RECORD["file"]
        path.parent.mkdir(parents=True)
        path.write_bytes(b"an engine")
        edit_manifest(root, lambda manifest: manifest.update(engines=[{**RECORD, **fields}]))
        rehash(root)
        return Bundle.open(root)

    return make


def dims(value):
    return tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim)


def test_a_model_is_one_node_that_names_the_engine_beside_it(make_bundle, tmp_path):
    bundle = make_bundle()
    (path,) = write_epcontext_models(bundle, tmp_path / "out")
    model = onnx.load(path)
    onnx.checker.check_model(model)
    (node,) = model.graph.node
    assert (node.domain, node.op_type) == ("com.microsoft", "EPContext")
    found = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    assert found == {
        "main_context": 1,
        "embed_mode": 0,
        "ep_cache_context": b"sm86+sm89-all.engine",
        "source": b"NvTensorRTRTXExecutionProvider",
        "ep_sdk_version": b"1.7.1.116",
        "hardware_architecture": b"sm86,sm89",
        "partition_name": b"NvTensorRTRTXExecutionProvider_tiny_fp32",
        "onnx_model_filename": b"ctx-48.onnx",
    }
    assert (path.parent / "sm86+sm89-all.engine").read_bytes() == b"an engine"


def test_inputs_and_outputs_are_those_of_the_bundle(make_bundle):
    manifest = make_bundle().manifest
    graph = epcontext_model(manifest, EngineRecord(**RECORD), "all.engine").graph
    for values, specs, names in (
        (graph.input, manifest.inputs, graph.node[0].input),
        (graph.output, manifest.outputs, graph.node[0].output),
    ):
        assert list(names) == [value.name for value in values] == [spec.name for spec in specs]
        assert [dims(value) for value in values] == [spec.shape for spec in specs]
        elements = [onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type) for value in values]
        assert elements == [spec.dtype for spec in specs]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [({"backend": "tensorrt"}, "no TensorRT-RTX engine"), ({"stripped": True}, "all.engine has no weights")],
)
def test_an_engine_that_cannot_be_one_is_refused(make_bundle, tmp_path, fields, reason):
    with pytest.raises(EngineError, match=reason):
        write_epcontext_models(make_bundle(**fields), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_in_the_bundle_is_refused(make_bundle):
    bundle = make_bundle()
    with pytest.raises(EngineError, match="is in the bundle"):
        write_epcontext_models(bundle, bundle.root / "engines" / "context")
    assert not (bundle.root / "engines/context").exists()


def test_a_folder_that_cannot_be_made_is_one_line(make_bundle, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineError, match="can't be written"):
        write_epcontext_models(make_bundle(), tmp_path / "file" / "out")
