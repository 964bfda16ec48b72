"""Classic TensorRT: builds on the device that the engine is for, and asks it for the fastest kernels."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from ctx_export.engines import EngineTarget, Library
from ctx_runtime.backends.cuda import compute_capability
from ctx_runtime.backends.tensorrt_library import Native


def _configure(trt: ModuleType, config: Native, target: EngineTarget) -> None:
    if target.names == ("ampere-plus",):
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    elif target.names == ("version-compatible",):
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)


def _requirement(target: EngineTarget, engine: Path) -> tuple[str, ...]:
    """The architecture of this device, where the engine runs on no other."""
    if target.names == ("ampere-plus",):
        return target.names
    here = compute_capability()
    return (here,) if target.names == ("current",) else (here, *target.names)


LIBRARY = Library(
    backend="tensorrt",
    ahead_of_time=False,
    targets="current, ampere+, version-compatible",
    compatibility="hardware compatibility level, version compatibility",
    device_cache="none: kernels are in the engine",
    configure=_configure,
    requirement=_requirement,
)
