"""The files of a Hugging Face folder: found, read and hashed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from ctx_runtime.errors import SourceError

PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
"""Weights that can run code."""
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_CHUNK = 1 << 20
"""Bytes that are read and hashed at once."""

Json = TypeVar("Json", dict[str, object], list[object])


def find_folder(model: str | Path) -> Path:
    """The folder that `model` names, or that the local cache holds under this id.

    Raises:
        SourceError: there is neither.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder.resolve()
    if folder.exists():
        raise SourceError(f"{model} is not a model's folder", hint="give the folder, or a .safetensors checkpoint")
    try:
        return Path(snapshot_download(str(model), local_files_only=True))
    except HFValidationError as error:
        raise SourceError(f"no folder {model}", hint="check the path") from error
    except LocalEntryNotFoundError as error:
        raise SourceError(
            f"{model} is neither a folder nor a model in the local Hugging Face cache",
            hint=f"nothing is downloaded here: `hf download {model}` fetches a model of the Hub",
        ) from error


def weight_files(folder: Path, *, allow_pickle: bool) -> tuple[Path, ...]:
    """The files to load weights from; an index comes first, before the shards it names.

    Raises:
        SourceError: there are none, or only pickles without `allow_pickle`; the index names files that are not there.
    """
    names = [name for name in (*_WEIGHTS, *PICKLES) if (folder / name).is_file()]
    if not names:
        raise SourceError(f"{folder} has no model.safetensors", hint="give a folder that save_pretrained wrote")
    first = folder / names[0]
    if names[0] in PICKLES and not allow_pickle:
        raise SourceError(
            f"{first} is a pickle, which can run code",
            hint="save the model as safetensors, or trust it with --allow-pickle",
        )
    return (first,) if first.suffix != ".json" else (first, *_shards(first))


def _shards(index: Path) -> list[Path]:
    """The files that an index says the weights are in."""
    places = read_json(index, dict).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise SourceError(f"{index} has no weight_map", hint="copy or download it again")
    shards = [inside(index.parent, name) for name in sorted(set(map(str, places.values())))]
    missing = [shard for shard in shards if not shard.is_file()]
    if missing:
        raise SourceError(f"no file {missing[0]}", hint="the folder is incomplete: copy or download it again")
    return shards


def inside(folder: Path, name: str) -> Path:
    """The path of the file or folder `name` in `folder`.

    Raises:
        SourceError: it leaves the folder.
    """
    path = Path(name)
    if path.is_absolute() or ".." in path.parts:
        raise SourceError(f"{folder.name} refers to {name}, outside of itself", hint="a model is one folder")
    return folder / path


def read_json(path: Path, kind: type[Json]) -> Json:
    """The object or list that a JSON file holds.

    Raises:
        SourceError: it is missing, no JSON or of another kind.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SourceError(f"no file {path}", hint="the folder is incomplete: copy or download it again") from error
    except (OSError, ValueError, RecursionError) as error:
        raise SourceError(f"{path} is not a JSON file: {error}", hint="copy or download it again") from error
    if not isinstance(value, kind):
        wanted = "object" if kind is dict else "list"
        raise SourceError(f"{path} holds no JSON {wanted}", hint="copy or download it again")
    return value


def digest(root: Path, files: Sequence[Path]) -> str:
    """The sha256 over the names and contents of `files` in `root`, whatever the folder is called."""
    total = hashlib.sha256()
    for path in sorted(files):
        content = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                content.update(chunk)
        total.update(f"{path.relative_to(root).as_posix()} {content.hexdigest()}\n".encode())
    return total.hexdigest()
