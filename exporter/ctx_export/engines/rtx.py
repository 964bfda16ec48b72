"""TensorRT-RTX: one portable engine for a list of architectures, built without a GPU."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from ctx_export.engines import EngineTarget, Library
from ctx_export.engines.inspecting import read_header
from ctx_runtime.backends.tensorrt_library import Native


def _configure(trt: ModuleType, config: Native, target: EngineTarget) -> None:
    names = ["CURRENT"] if target.names == ("current",) else [name.upper() for name in target.names]
    config.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        config.set_compute_capability(getattr(trt.ComputeCapability, name), index)


def _requirement(target: EngineTarget, engine: Path) -> tuple[str, ...]:
    """What the engine itself says that it runs on."""
    return read_header(engine).targets


LIBRARY = Library(
    backend="tensorrt-rtx",
    ahead_of_time=True,
    targets="sm75, sm80, sm86, sm89, sm120, sm121, or a list of them; current",
    compatibility="a list of architectures in one engine",
    device_cache="runtime cache of compiled kernels, kept by ctx-runtime",
    configure=_configure,
    requirement=_requirement,
)
