"""TensorRT engines: one builder over two libraries, TensorRT-RTX and classic TensorRT.

The words of the contract stand here; `job.build_engines` is the way in, `rtx` and `classic` hold what differs between
the libraries, and everything else is common to both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

from pydantic import BaseModel, ConfigDict

from ctx_runtime.backends.tensorrt import misfit_here
from ctx_runtime.backends.tensorrt_library import EngineBackend, Native
from ctx_runtime.manifest import DType, EngineRecord
from ctx_runtime.resource_profile import Precision

Layout = Literal["auto", "shared", "per-bucket"]
"""`shared`: one engine for all buckets of a network, one optimization profile each; `per-bucket`: one engine each."""
Dims = tuple[int, ...]


class _Message(BaseModel):
    """Crosses to the process that builds, as JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class EngineTarget(_Message):
    """What an engine is to run on.

    Attributes:
        names: `sm86`, `sm89`, … for one portable engine; or `current`, or, on classic TensorRT, `ampere-plus` or
            `version-compatible`.
    """

    backend: EngineBackend
    names: tuple[str, ...]

    @property
    def folder(self) -> str:
        """Where its engines lie in a bundle: `tensorrt-rtx/sm86+sm89`."""
        return f"{self.backend}/{'+'.join(self.names)}"


class Bounds(_Message):
    """The shapes that an input may have, and the one that its kernels are tuned for."""

    min: Dims
    opt: Dims
    max: Dims


class ProfileShapes(_Message):
    """The optimization profile of a bucket: its index in the engine, and the bounds of every dynamic input."""

    bucket: str
    index: int
    inputs: dict[str, Bounds]


class EngineRequest(_Message):
    """One engine to build.

    Attributes:
        graph: an ONNX file of the bundle; its weights lie beside it.
        inputs: the dtype of every input by name; the network must agree.
        profiles: in the order of their indices.
        stripped: without weights, which the runtime puts in from the bundle.
        capacity: of a decoder's cache, in tokens: TensorRT takes only a cache of static length.
    """

    target: EngineTarget
    network: str
    precision: Precision
    graph: Path
    inputs: dict[str, DType]
    profiles: tuple[ProfileShapes, ...]
    stripped: bool = False
    capacity: int | None = None

    @property
    def subject(self) -> str:
        """What is built, in error messages: `ctx-32, ctx-128 for sm86+sm89`."""
        return f"{', '.join(profile.bucket for profile in self.profiles)} for {'+'.join(self.target.names)}"


class BuildOutcome(_Message):
    """What a finished build tells of itself.

    Attributes:
        targets: what the engine runs on, as the manifest records it.
        layers: how many layers of each type the network has.
        seconds: wall time.
        peak_host_bytes: the most resident memory that the building process had.
    """

    library_version: str
    targets: tuple[str, ...]
    bytes: int
    layers: dict[str, int]
    seconds: float
    peak_host_bytes: int


@dataclass(frozen=True)
class BuiltEngine:
    """An engine in its place, and its line in the manifest; `cached` if an earlier build had made it."""

    record: EngineRecord
    profiles: tuple[ProfileShapes, ...]
    outcome: BuildOutcome
    cached: bool

    @property
    def misfit(self) -> str | None:
        """Why it can't run on this machine, as the runtime would say before it loads it; None if it can."""
        return misfit_here(self.record)

    def to_json(self, *, inspect: bool = False) -> dict[str, object]:
        """The object that `ctx-export engines --json` prints; with `inspect`, its layers and its misfit too."""
        return {
            "backend": self.record.backend,
            "target": "+".join(self.record.targets),
            "file": self.record.file,
            "bytes": self.outcome.bytes,
            "stripped": self.record.stripped,
            "profiles": [profile.model_dump(mode="json") for profile in self.profiles],
            "seconds": round(self.outcome.seconds, 3),
            "peak_host_bytes": self.outcome.peak_host_bytes,
            **({"layers": self.outcome.layers, "misfit": self.misfit} if inspect else {}),
        }


@dataclass(frozen=True)
class Library:
    """What differs between the two libraries; `docs/tensorrt.md` shows it as a table.

    Attributes:
        ahead_of_time: builds for other devices than the one it runs on, without a GPU.
        targets: what `--target` may name.
        compatibility: how an engine is made to run on more than one architecture.
        device_cache: what the library keeps on the device to start faster.
        configure: `(library module, builder config, target)`, sets the target.
        requirement: `(target, engine file)` -> the targets that the manifest records.
    """

    backend: EngineBackend
    ahead_of_time: bool
    targets: str
    compatibility: str
    device_cache: str
    configure: Callable[[ModuleType, Native, EngineTarget], None]
    requirement: Callable[[EngineTarget, Path], tuple[str, ...]]
