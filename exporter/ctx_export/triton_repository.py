"""Writes the model repository of a bundle for Triton Inference Server.

The router is the runtime itself in Triton's Python backend, over a copy of the bundle: it chooses, batches, pads, cuts
and fuses by the very code of `Runtime.run`. Triton wants external data beside `model.onnx`, in the folder of each
version: the weights of all graphs are one file with several names, hard links, where the file system has them. The
router's bundle has a copy of its own, since a bundle refuses hard links.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ctx_export.folders import partial_folder, put_in_place, remove_abandoned
from ctx_export.triton_models import TritonModel, config_text, misfit, triton_models
from ctx_runtime.bundle import MANIFEST, Bundle
from ctx_runtime.errors import BuildError
from ctx_runtime.triton import BUNDLE

MARKER = "ctx-export.json"
"""Says that a repository is ours, and of which bundle; Triton looks at folders only."""
VERSION = "1"
_ROUTER = "from ctx_runtime.triton import TritonPythonModel\n\n__all__ = ['TritonPythonModel']\n"


@dataclass(frozen=True)
class TritonRepository:
    """What was written.

    Attributes:
        disk_bytes: what it takes on this disk; a second name of a file takes nothing.
        linked: the graphs share one copy of the weights; else each has its own.
        left_out: engines that Triton's TensorRT backend can't run, each with the reason.
    """

    root: Path
    models: tuple[TritonModel, ...]
    disk_bytes: int
    linked: bool
    left_out: Mapping[str, str]

    def to_json(self) -> dict[str, object]:
        """What `ctx-export triton --json` prints."""
        models = [
            {"name": model.name, "backend": model.backend, "buckets": model.buckets, "serves": model.serves}
            for model in self.models
        ]
        return {
            "repository": str(self.root),
            "models": models,
            "disk_bytes": self.disk_bytes,
            "linked": self.linked,
            "left_out": dict(self.left_out),
        }


def write_repository(bundle: Bundle, output: Path) -> TritonRepository:
    """Write the model repository of `bundle` at `output`; an earlier one of ours is replaced once this is finished.

    Raises:
        BuildError: the bundle generates text, or `output` is not ours to replace or can't be written.
    """
    output, manifest = Path.cwd() / output, bundle.manifest
    if manifest.decoder is not None:
        raise BuildError(
            f"{manifest.name} generates text, which takes many runs over a cache; a Triton model is one run",
            hint="a bundle of an encoder can be served so; for this one, `ctx-runtime generate`",
        )
    _check_replaceable(output)
    partial, models = partial_folder(output), triton_models(bundle)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(output)
        for model in models:
            _write_model(partial / model.name, model)
        _copy_bundle(bundle, partial / models[0].name / VERSION / BUNDLE)
        linked = _share(partial, models)
        (partial / MARKER).write_text(json.dumps({"bundle_sha256": bundle.manifest_sha256}) + "\n")
        disk_bytes = _disk_bytes(partial)
        put_in_place(partial, output)
    except OSError as error:
        raise BuildError(f"can't write a repository at {output}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    left_out = {engine.file: reason for engine in manifest.engines if (reason := misfit(engine)) is not None}
    return TritonRepository(output, models, disk_bytes, linked, left_out)


def _check_replaceable(output: Path) -> None:
    if output.is_symlink() or (output.exists() and not (output / MARKER).is_file()):
        raise BuildError(
            f"{output} exists and was not written by `ctx-export triton`",
            hint="name another place with -o; the folders of models can be moved into a repository of yours",
        )


def _write_model(folder: Path, model: TritonModel) -> None:
    """The configuration, and the code of the router; the other files are those of the bundle."""
    (folder / VERSION).mkdir(parents=True)
    (folder / "config.pbtxt").write_text(config_text(model))
    if model.backend == "python":
        (folder / VERSION / "model.py").write_text(_ROUTER)


def _copy_bundle(bundle: Bundle, folder: Path) -> None:
    for path in (MANIFEST, *(record.path for record in bundle.manifest.files)):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.path(path), folder / path)


def _share(root: Path, models: Sequence[TritonModel]) -> bool:
    """Copy each file of the bundle once and give it its other names; False if one had to be copied again."""
    linked, placed = True, dict[Path, Path]()
    for model in models:
        for name, source in model.files.items():
            target = root / model.name / VERSION / name
            if source in placed:
                linked &= _link(placed[source], target)
            else:
                placed[source] = Path(shutil.copyfile(source, target))
    return linked


def _link(first: Path, second: Path) -> bool:
    """Give a file a second name, or copy it where the file system has no hard links."""
    try:
        os.link(first, second)
    except OSError:
        shutil.copyfile(first, second)
        return False
    return True


def _disk_bytes(root: Path) -> int:
    """The size of all files, each counted once however many names it has."""
    files = [path.stat() for path in root.rglob("*") if path.is_file()]
    return sum({status.st_ino: status.st_size for status in files}.values())
