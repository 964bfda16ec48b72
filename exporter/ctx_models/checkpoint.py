"""Length-adaptive models on disk: `config.json`, `model.safetensors`, `tokenizer.json`, `quality.json`."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from ctx_models.config import AdaptiveConfig
from ctx_models.errors import ModelError
from ctx_models.heads import TaskModel
from ctx_models.subnetwork import LengthPolicy

MODEL_TYPE = "ctx-adaptive"
"""`model_type` in config.json."""
_CONFIG, _WEIGHTS, _TOKENIZER, _QUALITY = "config.json", "model.safetensors", "tokenizer.json", "quality.json"
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Checkpoint:
    """What a folder holds.

    Attributes:
        model: in eval mode.
        policy: which sub-network runs at which length, if it says so.
        tokenizer: the path of tokenizer.json, if there is one.
        quality: rows of the quality by length and sub-network, as JSON values.
        sha256: of the files, in hexadecimal.
    """

    model: TaskModel
    policy: LengthPolicy | None
    tokenizer: Path | None
    quality: tuple[dict[str, Any], ...]
    sha256: str


def save_model(
    model: TaskModel,
    folder: Path,
    *,
    policy: LengthPolicy | None = None,
    tokenizer: Path | None = None,
    quality: Sequence[dict[str, Any]] = (),
) -> None:
    """Write a model to `folder`, which appears complete or not at all; a folder that is there is replaced.

    Args:
        model: without adapters; merge them first.
        folder: the folder.
        policy: which sub-network runs at which length.
        tokenizer: a tokenizer.json to copy.
        quality: rows of the quality by length and sub-network, as JSON values.

    Raises:
        ModelError: `folder` holds something else than such a model.
    """
    if folder.exists() and not is_checkpoint(folder):
        raise ModelError(f"{folder} is there, and is no length-adaptive model", hint="give another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    settings = {
        "model_type": MODEL_TYPE,
        "task": model.task,
        "labels": list(model.labels),
        "network": model.config.to_json(),
        "policy": policy.to_json() if policy else None,
    }
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        made = Path(scratch) / "new"
        made.mkdir()
        state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        safetensors.torch.save_file(state, made / _WEIGHTS)
        _write_json(made / _CONFIG, settings)
        if quality:
            _write_json(made / _QUALITY, list(quality))
        if tokenizer is not None:
            shutil.copyfile(tokenizer, made / _TOKENIZER)
        if folder.exists():
            folder.rename(Path(scratch) / "old")
        made.rename(folder)


def is_checkpoint(folder: Path) -> bool:
    """Whether `folder` has the config.json of a length-adaptive model."""
    try:
        settings = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(settings, dict) and settings.get("model_type") == MODEL_TYPE


def load_model(folder: Path) -> Checkpoint:
    """Read what `save_model` wrote.

    Raises:
        ModelError: the folder is no length-adaptive model, or a damaged one.
    """
    settings = _read_json(folder / _CONFIG, dict)
    if settings.get("model_type") != MODEL_TYPE:
        raise ModelError(f"{folder} is no length-adaptive model: its config.json has another model_type")
    try:
        config = AdaptiveConfig.from_json(settings["network"])
        model = TaskModel(config, settings["task"], settings["labels"])
        policy = LengthPolicy.from_json(settings["policy"]) if settings.get("policy") else None
    except (KeyError, TypeError) as error:
        raise ModelError(f"{folder / _CONFIG} is not sound: {error}", hint="save the model again") from error
    _load_weights(model, folder / _WEIGHTS)
    tokenizer = folder / _TOKENIZER
    quality = _read_json(folder / _QUALITY, list) if (folder / _QUALITY).exists() else []
    files = [folder / name for name in (_CONFIG, _WEIGHTS, _TOKENIZER, _QUALITY)]
    return Checkpoint(
        model=model.eval(),
        policy=policy,
        tokenizer=tokenizer if tokenizer.is_file() else None,
        quality=tuple(quality),
        sha256=_digest([file for file in files if file.is_file()]),
    )


def _load_weights(model: TaskModel, file: Path) -> None:
    hint = "copy it again, or save the model again"
    try:
        state = safetensors.torch.load_file(file)
    except (OSError, safetensors.SafetensorError) as error:
        raise ModelError(f"{file} can't be read: {error}", hint=hint) from error
    expected: dict[str, torch.Tensor] = model.state_dict()
    for name in sorted(expected.keys() ^ state.keys()):
        raise ModelError(f"{file} {'has no' if name in expected else 'has an unknown'} tensor {name}", hint=hint)
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            found, wanted = list(tensor.shape), list(expected[name].shape)
            raise ModelError(f"{file}: {name} has the shape {found}, not {wanted}", hint=hint)
    model.load_state_dict(state)


def _read_json(file: Path, kind: type) -> Any:  # noqa: ANN401
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{file.parent} has no {file.name}", hint="give the folder of a saved model") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file} can't be read: {error}", hint="copy it again, or save the model again") from error
    if not isinstance(value, kind):
        raise ModelError(f"{file} is not sound: its top level is no {kind.__name__}")
    return value


def _write_json(file: Path, value: object) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _digest(files: Sequence[Path]) -> str:
    """SHA-256 over the names and contents of the files."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()
