"""What an engine is: from its first bytes, without a library or a GPU, and from the report of its build beside it."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from ctx_export.engines import BuildOutcome, BuiltEngine, ProfileShapes
from ctx_runtime.bundle import Bundle
from ctx_runtime.errors import EngineError

_HEADER = struct.Struct("<4s12xQ4B4xB31x")
"""Magic, size of the file, version in four numbers, one bit for each architecture; as TensorRT-RTX 1.7 writes it."""
_MAGIC = b"vtrt"
_ARCHITECTURES = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")


@dataclass(frozen=True)
class EngineHeader:
    """The first 64 bytes of a TensorRT-RTX engine.

    Attributes:
        bytes: the size that the file should have.
        library_version: the version that wrote it, and that loads it: `1.7.1.116`.
        targets: the architectures that it runs on.
    """

    bytes: int
    library_version: str
    targets: tuple[str, ...]


def read_header(path: Path) -> EngineHeader:
    """The header of a TensorRT-RTX engine file.

    Raises:
        EngineError: it is not an engine, or not all of it.
    """
    with path.open("rb") as file:
        head = file.read(_HEADER.size)
    if len(head) < _HEADER.size or head[: len(_MAGIC)] != _MAGIC:
        raise EngineError(f"{path.name} is not a TensorRT-RTX engine", hint="build it again with `ctx-export engines`")
    _, size, *version, mask = _HEADER.unpack(head)
    found = path.stat().st_size
    if found != size:
        raise EngineError(
            f"{path.name} is truncated or longer than it was: {found} bytes, its header says {size}",
            hint="build it again with `ctx-export engines`",
        )
    targets = tuple(name for bit, name in enumerate(_ARCHITECTURES) if mask >> bit & 1)
    return EngineHeader(bytes=size, library_version=".".join(map(str, version)), targets=targets)


class EngineReport(BuildOutcome):
    """The file beside an engine in a bundle, `all.json`: how it was built and what it takes."""

    profiles: tuple[ProfileShapes, ...]


def report_path(engine: Path) -> Path:
    """Where the report of an engine lies."""
    return engine.with_suffix(".json")


def inspect_engines(bundle: Bundle) -> list[BuiltEngine]:
    """The engines of a bundle with their profiles, layers and sizes.

    Raises:
        EngineError: an engine is not what its header says.
    """
    engines = []
    for record in bundle.manifest.engines:
        path = bundle.path(record.file)
        if record.backend == "tensorrt-rtx":
            read_header(path)
        report = EngineReport.model_validate_json(report_path(path).read_text(encoding="utf-8"))
        outcome = BuildOutcome(**report.model_dump(exclude={"profiles"}))
        engines.append(BuiltEngine(record, report.profiles, outcome, cached=True))
    return engines
