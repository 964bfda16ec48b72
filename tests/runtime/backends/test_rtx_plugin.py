"""The plug-in's options and refusals; its session on a device of ONNX Runtime itself; and a real GPU's run."""

import sys
import types
from importlib.util import find_spec

import numpy as np
import onnxruntime as ort
import pytest

from ctx_runtime import Bundle, Runtime
from ctx_runtime.backends import onnxruntime
from ctx_runtime.backends.onnxruntime import OrtSession
from ctx_runtime.backends.opening import open_session
from ctx_runtime.backends.rtx_plugin import registered_plugin, rtx_device, rtx_options
from ctx_runtime.errors import BackendError, MissingExtraError
from tests.fixtures.bundles import expected, write_tiny_bundle

BACKEND = "onnxruntime-tensorrt-rtx"
MODULE = "onnxruntime_ep_nv_tensorrt_rtx"
BACKENDS = {"backends": (BACKEND, "onnxruntime-cpu")}


@pytest.fixture(autouse=True)
def _not_registered():
    registered_plugin.cache_clear()
    yield
    registered_plugin.cache_clear()


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    monkeypatch.setenv("CTX_RUNTIME_CACHE", "/cache")
    return Bundle.open(write_tiny_bundle(tmp_path / "b", bucket_fields=BACKENDS))


@pytest.fixture
def package(monkeypatch, tmp_path):
    """A package of the plug-in whose library is no library."""
    (tmp_path / "plugin.so").write_bytes(b"not a library")
    module = types.ModuleType(MODULE)
    module.__file__ = str(tmp_path / "__init__.py")
    module.get_ep_name = lambda: "NvTensorRTRTXExecutionProvider"
    module.get_library_path = lambda: str(tmp_path / "plugin.so")
    monkeypatch.setitem(sys.modules, MODULE, module)
    return module


def test_one_profile_covers_every_bucket_of_the_session(bundle):
    options = rtx_options(bundle, "graphs/ctx-48.onnx", bundle.manifest.buckets, bundle.manifest.inputs)
    assert options["nv_profile_min_shapes"] == "input_ids:1x1,attention_mask:1x1"
    longest = bundle.manifest.buckets[-1]
    opt = f"{longest.batch.opt}x{longest.opt_length}"
    assert options["nv_profile_opt_shapes"] == f"input_ids:{opt},attention_mask:{opt}"
    assert options["nv_profile_max_shapes"] == f"input_ids:{longest.batch.max}x48,attention_mask:{longest.batch.max}x48"
    digest = next(file.sha256 for file in bundle.manifest.files if file.path == "graphs/ctx-48.onnx")
    assert options["nv_runtime_cache_path"] == f"/cache/{BACKEND}/{digest}"
    assert options["enable_cuda_graph"] == "0"


def test_one_shape_is_captured_as_a_cuda_graph(bundle):
    bucket = bundle.manifest.buckets[0]
    one = bucket.batch.model_copy(update={"min": 1, "opt": 1, "max": 1})
    bucket = bucket.model_copy(update={"max_length": 1, "opt_length": 1, "batch": one})
    options = rtx_options(bundle, "graphs/ctx-48.onnx", [bucket], bundle.manifest.inputs)
    assert options["nv_profile_min_shapes"] == options["nv_profile_max_shapes"]
    assert options["enable_cuda_graph"] == "1"


@pytest.mark.parametrize(("form", "inputs"), [("masked", "input_ids,attention_mask"), ("unmasked", "input_ids")])
def test_a_session_gets_the_shapes_of_its_own_inputs(bundle, monkeypatch, form, inputs):
    opened = {}
    monkeypatch.setattr(onnxruntime, "OrtSession", lambda graph, **fields: opened.update(fields, graph=graph.name))
    open_session(bundle, bundle.manifest.buckets[0], form, BACKEND, share_weights="mmap", on_fallback=print)
    shapes = opened["provider_options"]["nv_profile_max_shapes"]
    assert ",".join(shape.partition(":")[0] for shape in shapes.split(",")) == inputs
    assert "x48" in shapes and opened["graph"].startswith("ctx-48"), "one session for both buckets"


def test_a_session_is_opened_on_the_device(bundle, monkeypatch):
    """On the device of ONNX Runtime's own CPU provider, by the same calls."""
    (cpu,) = (device for device in ort.get_ep_devices() if device.ep_name == "CPUExecutionProvider")
    monkeypatch.setattr(onnxruntime, "rtx_device", lambda: cpu)
    monkeypatch.setitem(onnxruntime.PROVIDERS, BACKEND, "CPUExecutionProvider")
    ids = np.array([[3, 4, 5]])
    session = OrtSession(bundle.path("graphs/ctx-16.unmasked.onnx"), backend=BACKEND, provider_options={})
    np.testing.assert_allclose(
        session.run({"input_ids": ids}, bucket="ctx-16")["hidden"], expected(ids)["hidden"], atol=1e-6
    )
    assert session.backend == BACKEND


@pytest.mark.skipif(find_spec(MODULE) is not None, reason="the plug-in is installed here")
def test_a_missing_package_names_its_extra():
    with pytest.raises(MissingExtraError) as missing:
        rtx_device()
    assert missing.value.hint == "pip install 'ctx-export[rtx-plugin]'"


@pytest.mark.usefixtures("package")
def test_a_library_that_cannot_start_is_one_clear_line():
    with pytest.raises(BackendError, match=r"can't start: .*plugin\.so") as refused:
        rtx_device()
    assert "\n" not in str(refused.value) and "driver" in refused.value.hint


def test_no_gpu_is_a_reason(package, monkeypatch):
    monkeypatch.setattr(ort, "register_execution_provider_library", lambda name, path: None)
    with pytest.raises(BackendError, match="finds no GPU"):
        rtx_device()


def test_the_plugin_is_registered_once_and_its_device_found(package, monkeypatch):
    registered = []
    monkeypatch.setattr(ort, "register_execution_provider_library", lambda *names: registered.append(names))
    devices = [types.SimpleNamespace(ep_name=name) for name in ("CPUExecutionProvider", package.get_ep_name())]
    monkeypatch.setattr(ort, "get_ep_devices", lambda: devices)
    assert [rtx_device(), rtx_device()] == [devices[1]] * 2
    assert registered == [(package.get_ep_name(), package.get_library_path())]


@pytest.mark.usefixtures("package")
def test_the_runtime_falls_back_with_the_reason(bundle):
    with Runtime.open(bundle) as runtime:
        with pytest.warns(RuntimeWarning, match="can't start"):
            result = runtime.run({"input_ids": np.arange(3, 9)})
        assert result.dispatch[0].backend == "onnxruntime-cpu"
        assert [item.backend for item in runtime.stats().fallbacks] == [BACKEND]


@pytest.mark.skipif(find_spec(MODULE) is None, reason="needs the extra `rtx-plugin`")
def test_the_real_plugin_starts_or_names_the_driver():
    """Without a driver, everything else that the library needs is there."""
    try:
        assert rtx_device().ep_name == "NvTensorRTRTXExecutionProvider"
    except BackendError as error:
        assert "libcuda.so.1" in str(error) or "finds no GPU" in str(error)


@pytest.mark.gpu
@pytest.mark.skipif(find_spec(MODULE) is None, reason="needs the extra `rtx-plugin`")
def test_the_plugin_gives_the_cpus_answers_on_a_gpu(tmp_path):
    bundle = Bundle.open(write_tiny_bundle(tmp_path / "b", bucket_fields=BACKENDS))
    with Runtime.open(bundle, backends=[BACKEND]) as runtime:
        for length in (1, 16, 17, 48):
            row = np.random.default_rng(length).integers(3, 60, length)
            result = runtime.run({"input_ids": row})
            assert result.dispatch[0].backend == BACKEND
            np.testing.assert_allclose(result.outputs["hidden"], expected(row[None])["hidden"][0], atol=1e-3)
