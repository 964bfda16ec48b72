"""What this machine can build and run, and the pip line for each part that is missing."""

from __future__ import annotations

import platform
import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from ctx_export.engines import Library, classic, rtx
from ctx_runtime import __version__
from ctx_runtime.backends.cuda import compute_capability
from ctx_runtime.backends.tensorrt_library import load_library
from ctx_runtime.errors import BackendError, MissingExtraError
from ctx_runtime.resource_profile import BackendName

_PACKAGES = {
    "torch": "export",
    "transformers": "export",
    "onnx": "export",
    "onnx-ir": "export",
    "onnxscript": "export",
    "onnxruntime": "cpu",
    "tokenizers": "cpu",
    "onnxruntime-gpu": "cuda",
    "onnxruntime-ep-nv-tensorrt-rtx-cu12": "rtx-plugin",
    "tensorrt-rtx-cu12": "rtx",
    "tensorrt": "tensorrt",
}
_PROVIDERS: dict[BackendName, tuple[str, str]] = {
    "onnxruntime-cpu": ("CPUExecutionProvider", "cpu"),
    "onnxruntime-cuda": ("CUDAExecutionProvider", "cuda"),
    "onnxruntime-tensorrt": ("TensorrtExecutionProvider", "cuda"),
}
_LIBRARIES = (rtx.LIBRARY, classic.LIBRARY)


@dataclass(frozen=True)
class Part:
    """A package, or a backend that builds or runs.

    Attributes:
        detail: its version, or why it is not available.
        hint: what to do about it, None where there is nothing to do.
    """

    name: str
    available: bool
    detail: str
    hint: str | None


@dataclass(frozen=True)
class Diagnosis:
    """The state of this machine."""

    system: str
    devices: tuple[str, ...]
    packages: tuple[Part, ...]
    builders: tuple[Part, ...]
    backends: tuple[Part, ...]


def diagnose() -> Diagnosis:
    """Look at packages, execution providers, TensorRT libraries and devices; nothing is loaded onto a device."""
    return Diagnosis(
        system=f"ctx-export {__version__}, Python {platform.python_version()} on {platform.machine()}",
        devices=_devices(),
        packages=tuple(_package(name, extra) for name, extra in _PACKAGES.items()),
        builders=tuple(_builder(library) for library in _LIBRARIES),
        backends=(
            *(_provider(name, *needs) for name, needs in _PROVIDERS.items()),
            _plugin(),
            *(_runner(library) for library in _LIBRARIES),
        ),
    )


def _pip(extra: str) -> str:
    return f"pip install 'ctx-export[{extra}]'"


def _package(name: str, extra: str) -> Part:
    try:
        return Part(name, True, version(name), None)
    except PackageNotFoundError:
        return Part(name, False, "not installed", _pip(extra))


def _provider(name: BackendName, provider: str, extra: str) -> Part:
    if find_spec("onnxruntime") is None:
        return Part(name, False, "onnxruntime is not installed", _pip(extra))
    import onnxruntime  # noqa: PLC0415  (optional)

    if provider in onnxruntime.get_available_providers():
        return Part(name, True, f"onnxruntime {onnxruntime.__version__}", None)
    return Part(name, False, f"this build of onnxruntime has no {provider}", _pip(extra))


def _plugin() -> Part:
    """Whether ONNX Runtime can register the TensorRT-RTX plug-in, and finds a device."""
    name: BackendName = "onnxruntime-tensorrt-rtx"
    if find_spec("onnxruntime") is None:
        return Part(name, False, "onnxruntime is not installed", _pip("rtx-plugin"))
    from ctx_runtime.backends.rtx_plugin import rtx_device  # noqa: PLC0415  (optional)

    try:
        return Part(name, True, str(rtx_device().ep_metadata), None)
    except (BackendError, MissingExtraError) as error:
        return Part(name, False, str(error), error.hint)


def _builder(library: Library) -> Part:
    """Whether the library loads, and what it builds for."""
    try:
        trt = load_library(library.backend)
    except (BackendError, MissingExtraError) as error:
        return Part(library.backend, False, str(error), error.hint)
    where = "ahead of time, no GPU needed" if library.ahead_of_time else "on a machine with a GPU"
    return Part(library.backend, True, f"{trt.__name__} {trt.__version__} builds {where}: {library.targets}", None)


def _runner(library: Library) -> Part:
    """Whether the library and a device are here."""
    try:
        trt, capability = load_library(library.backend), compute_capability()
    except (BackendError, MissingExtraError) as error:
        return Part(library.backend, False, str(error), error.hint)
    return Part(library.backend, True, f"{trt.__name__} {trt.__version__} on {capability}", None)


def _devices() -> tuple[str, ...]:
    """The NVIDIA GPUs that the driver lists, with their compute capability."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return ()
    query = [command, "--query-gpu=name,compute_cap", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    return tuple(line.strip() for line in answer.stdout.splitlines()) if answer.returncode == 0 else ()
