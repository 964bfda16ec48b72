"""Snapshots of a run: everything that its next step depends on, in safetensors and JSON, there whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ctx_models.errors import ModelError
from ctx_models.training.adapters import Adapters

_TENSORS, _RECORD = "state.safetensors", "state.json"
_FORMAT = 1


@dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Attributes:
        step: steps done, over all epochs; with it goes the place in the epoch, since every epoch has as many.
        epoch_loss: the sum of the losses of the current epoch's steps.
    """

    step: int = 0
    epoch_loss: float = 0.0


@dataclass(frozen=True, eq=False)
class Snapshots:
    """The snapshots of one run in a folder of their own; the newest is kept.

    Attributes:
        folder: where they are; made when the first is written.
        identity: what a run must have in common with the one that it resumes, as JSON values.
    """

    folder: Path
    identity: Mapping[str, Any]

    def check_new(self) -> None:
        """Make sure that no run is thrown away by mistake.

        Raises:
            ModelError: there is a snapshot already.
        """
        if self._newest() is not None:
            raise ModelError(f"{self.folder} holds an unfinished run", hint="resume it, or remove the folder")

    def save(
        self, progress: Progress, model: nn.Module, optimizer: torch.optim.Optimizer, adapters: Adapters | None
    ) -> None:
        """Write a snapshot beside the last one, then remove that."""
        tensors = {f"model.{name}": tensor for name, tensor in _tensors(model).items()}
        for index, values in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in values.items()}
        tensors |= {f"random.{name}": tensor for name, tensor in _random_states().items()}
        remembered, pattern = adapters.state() if adapters else ({}, "null")
        tensors |= {f"adapters.{name}": tensor for name, tensor in remembered.items()}
        record = {"format": _FORMAT, "step": progress.step, "epoch_loss": progress.epoch_loss, "ranks": pattern}
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".writing-", dir=self.folder) as name:
            writing = Path(name) / "snapshot"
            writing.mkdir()
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, writing / _TENSORS)
            text = json.dumps(record | {"identity": self.identity}, indent=2)
            (writing / _RECORD).write_text(text, encoding="utf-8")
            target = self.folder / f"step-{progress.step:09d}"
            shutil.rmtree(target, ignore_errors=True)
            os.replace(writing, target)  # noqa: PTH105 (a folder)
        for old in self.folder.iterdir():
            if old != target:
                shutil.rmtree(old)

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer, adapters: Adapters | None) -> Progress:
        """Put model, optimizer, adapters and random numbers where the newest snapshot left them.

        Raises:
            ModelError: there is none, it is damaged, or that run had other settings, data or another model.
        """
        newest = self._newest()
        if newest is None:
            raise ModelError(f"nothing to resume in {self.folder}", hint="start the run without resuming")
        record = _read_record(newest)
        self._check_identity(record["identity"])
        try:
            tensors = load_file(newest / _TENSORS)
            _load_model(model, _below(tensors, "model."))
            _load_optimizer(optimizer, _below(tensors, "optimizer."))
            _set_random_states(_below(tensors, "random."))
        except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
            raise ModelError(f"{newest} is damaged: {error}", hint="remove it and start again") from error
        if adapters:
            adapters.restore(_below(tensors, "adapters."), record["ranks"])
        return Progress(record["step"], record["epoch_loss"])

    def _newest(self) -> Path | None:
        return max(self.folder.glob("step-*"), default=None)

    def _check_identity(self, other: Mapping[str, Any]) -> None:
        for name, value in self.identity.items():
            if other.get(name) != value:
                raise ModelError(
                    f"the run in {self.folder} had {name} {other.get(name)!r}, not {value!r}",
                    hint="resume with the same model, data and settings, or remove the folder",
                )


def _read_record(snapshot: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads((snapshot / _RECORD).read_text(encoding="utf-8"))
        known = record["format"] == _FORMAT and {"step", "epoch_loss", "ranks", "identity"} <= set(record)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{snapshot} is damaged: {error}", hint="remove it and start again") from error
    if not known:
        raise ModelError(f"{snapshot} is of another version", hint="remove it and start again")
    return record


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters, shared ones once, and buffers."""
    return {name: tensor.detach() for name, tensor in (*model.named_parameters(), *model.named_buffers())}


def _load_model(model: nn.Module, saved: Mapping[str, Tensor]) -> None:
    current = _tensors(model)
    if set(saved) != set(current):
        raise ValueError("it holds other parameters than the model's")
    for name, tensor in current.items():
        tensor.copy_(saved[name])


def _load_optimizer(optimizer: torch.optim.Optimizer, saved: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in saved.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _random_states() -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states |= {f"cuda{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def _set_random_states(states: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state_all([states[f"cuda{index}"] for index in range(torch.cuda.device_count())])
