"""ONNX Runtime's plug-in for TensorRT-RTX: its registration, its device, and the options of a session on it.

Other than a built-in execution provider it comes in a package of its own, and ONNX Runtime knows it once its library is
registered, which needs an NVIDIA driver.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import threading
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import onnxruntime as ort

from ctx_runtime.bundle import Bundle
from ctx_runtime.cache_folder import cache_root
from ctx_runtime.errors import BackendError, MissingExtraError
from ctx_runtime.manifest import BucketRecord, InputSpec

_PACKAGE = "onnxruntime-ep-nv-tensorrt-rtx-cu12"
_MODULE = "onnxruntime_ep_nv_tensorrt_rtx"
_lock = threading.Lock()


def rtx_device() -> ort.OrtEpDevice:
    """The first GPU that the plug-in runs on.

    Raises:
        MissingExtraError: the package is not installed.
        BackendError: ONNX Runtime can't load it, most often for want of a driver; or it finds no GPU.
    """
    with _lock:
        name = registered_plugin()
    device = next((device for device in ort.get_ep_devices() if device.ep_name == name), None)
    if device is None:
        raise BackendError("the TensorRT-RTX plug-in of onnxruntime finds no GPU that it runs on")
    return device


@functools.cache
def registered_plugin() -> str:
    """Register the plug-in, once a process; the name of its execution provider."""
    try:
        plugin = importlib.import_module(_MODULE)
    except ImportError as error:
        raise MissingExtraError(_PACKAGE, "rtx-plugin", purpose="the backend onnxruntime-tensorrt-rtx") from error
    try:
        _load_cuda_runtime(plugin)
        name = str(plugin.get_ep_name())
        ort.register_execution_provider_library(name, plugin.get_library_path())
    except Exception as error:  # ONNX Runtime's errors have no common class of their own
        reason = " ".join(str(error).rpartition("with error: ")[2].split())[:300]
        raise BackendError(
            f"the TensorRT-RTX plug-in of onnxruntime can't start: {reason}", hint="it needs an NVIDIA driver"
        ) from error
    return name


def rtx_options(
    bundle: Bundle, graph: str, buckets: Sequence[BucketRecord], inputs: Sequence[InputSpec]
) -> dict[str, str]:
    """The provider options of a session that serves `buckets`, shortest first, from one graph file of the bundle.

    One optimization profile covers them all, from one row of one token to the most of both, and is tuned for the
    longest bucket. A session with one shape only is captured as a CUDA graph.
    """
    longest = buckets[-1]
    low = _shapes(inputs, 1, 1)
    high = _shapes(inputs, max(bucket.batch.max for bucket in buckets), longest.max_length)
    digest = next(file.sha256 for file in bundle.manifest.files if file.path == graph)
    return {
        "nv_profile_min_shapes": low,
        "nv_profile_opt_shapes": _shapes(inputs, longest.batch.opt, longest.opt_length),
        "nv_profile_max_shapes": high,
        "nv_runtime_cache_path": str(cache_root() / "onnxruntime-tensorrt-rtx" / digest),
        "enable_cuda_graph": "1" if low == high else "0",
    }


def _load_cuda_runtime(plugin: ModuleType) -> None:
    """Load the CUDA runtime that comes with the package, which does not do so itself."""
    for library in Path(str(plugin.__file__)).parent.glob("libcudart.so.*"):
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


def _shapes(inputs: Sequence[InputSpec], batch: int, length: int) -> str:
    """`input_ids:1x16,attention_mask:1x16`."""
    sizes = {"batch": batch, "length": length}
    dims = ("x".join(str(sizes.get(str(dim), dim)) for dim in spec.shape) for spec in inputs)
    return ",".join(f"{spec.name}:{shape}" for spec, shape in zip(inputs, dims, strict=True))
