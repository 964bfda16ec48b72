"""`--target rtx:sm86,sm89`: what it may say, and which precision each target holds."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable

from ctx_export.engines import EngineTarget
from ctx_runtime.backends.tensorrt_library import load_library
from ctx_runtime.errors import EngineError
from ctx_runtime.resource_profile import Precision

RTX_ARCHITECTURES = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
"""What TensorRT-RTX 1.7 builds for."""
_CLASSIC_TARGETS = {"current": "current", "ampere+": "ampere-plus", "version-compatible": "version-compatible"}
OLDEST_ARCHITECTURE: dict[Precision, int] = {"fp16": 75, "fp32": 80, "bf16": 80, "int8": 80, "int4": 80}
"""The first architecture that TensorRT builds each precision for. Quantised weights multiply in float32, which Turing
(sm75) has no matrix product for."""


def parse_target(text: str) -> EngineTarget:
    """Read one target: `rtx:sm86,sm89`, `rtx:current`, `trt:current`, `trt:ampere+`, `trt:version-compatible`.

    Raises:
        EngineError: it names no target of a library.
    """
    library, _, names = text.partition(":")
    if library == "trt" and names in _CLASSIC_TARGETS:
        return EngineTarget(backend="tensorrt", names=(_CLASSIC_TARGETS[names],))
    if library == "rtx" and names == "current":
        return EngineTarget(backend="tensorrt-rtx", names=("current",))
    if library == "rtx" and names and set(listed := names.split(",")) <= set(RTX_ARCHITECTURES):
        return EngineTarget(backend="tensorrt-rtx", names=tuple(sorted(set(listed), key=RTX_ARCHITECTURES.index)))
    raise EngineError(
        f"{text!r} is not a target",
        hint=f"give rtx:LIST with a list of {', '.join(RTX_ARCHITECTURES)}, or rtx:current, "
        + ", ".join(f"trt:{name}" for name in _CLASSIC_TARGETS),
    )


def check_targets(targets: Iterable[str], precisions: Iterable[Precision]) -> None:
    """Refuse, before anything is built, a target that is none, can't hold every precision, or lacks its library.

    Raises:
        EngineError: see `parse_target` and `check_precision`.
        MissingExtraError: the library of a target is not installed.
    """
    parsed = [parse_target(text) for text in targets]
    for target, precision in itertools.product(parsed, precisions):
        check_precision(target, precision)
    for target in parsed:
        load_library(target.backend)


def check_precision(target: EngineTarget, precision: Precision) -> None:
    """Refuse, before the build, a target that can't hold `precision`.

    Raises:
        EngineError: an architecture of `target` is too old.
    """
    oldest = OLDEST_ARCHITECTURE[precision]
    for name in target.names:
        if (match := re.fullmatch(r"sm(\d+)", name)) and int(match[1]) < oldest:
            raise EngineError(
                f"{name} can't run {precision}: TensorRT builds it for sm{oldest} and later",
                hint=f"leave {name} out of the target, or build the bundle with precision fp16",
            )
