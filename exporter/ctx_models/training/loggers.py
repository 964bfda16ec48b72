"""TensorBoard and Weights & Biases: a run's events as scalars."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from ctx_models.errors import ModelError
from ctx_models.extras import load_extra
from ctx_models.training.config import TrainingConfig
from ctx_models.training.events import EpochDone, Event, OnEvent, StepDone

LoggerName: TypeAlias = Literal["tensorboard", "wandb"]


@contextlib.contextmanager
def log_to(logger: LoggerName, folder: Path, config: TrainingConfig) -> Iterator[OnEvent]:
    """A function that writes events to files in `folder`, closed at the end.

    Weights & Biases writes an offline run, which `wandb sync` uploads; nothing is sent from here.

    Args:
        logger: which of the two.
        folder: where its files go.
        config: the run's settings, which are logged too.

    Raises:
        ModelError: there is no such logger, or it is not installed.
    """
    if logger not in get_args(LoggerName):
        raise ModelError(f"unknown logger {logger!r}", hint=f"the loggers are {', '.join(get_args(LoggerName))}")
    with (_tensorboard if logger == "tensorboard" else _wandb)(folder, config) as write:

        def on_event(event: Event) -> None:
            if not isinstance(event, StepDone | EpochDone):
                return
            scalars = _step_scalars(event) if isinstance(event, StepDone) else _epoch_scalars(event)
            write(scalars, event.step)

        yield on_event


_Write: TypeAlias = Callable[[Mapping[str, float], int], None]


@contextlib.contextmanager
def _tensorboard(folder: Path, config: TrainingConfig) -> Iterator[_Write]:
    load_extra("tensorboard", purpose="logging to TensorBoard")
    writer: Any = load_extra("torch.utils.tensorboard", purpose="logging to TensorBoard").SummaryWriter(str(folder))
    writer.add_text("settings", "\n".join(f"    {name}: {value}" for name, value in config.to_json().items()))

    def write(scalars: Mapping[str, float], step: int) -> None:
        for name, value in scalars.items():
            writer.add_scalar(name, value, step)

    with contextlib.closing(writer):
        yield write


@contextlib.contextmanager
def _wandb(folder: Path, config: TrainingConfig) -> Iterator[_Write]:
    wandb: Any = load_extra("wandb", purpose="logging to Weights & Biases")
    folder.mkdir(parents=True, exist_ok=True)
    quiet = wandb.Settings(silent=True, console="off")
    with wandb.init(
        mode="offline", project="ctx-export", dir=str(folder), config=config.to_json(), settings=quiet
    ) as run:
        yield lambda scalars, step: run.log(dict(scalars), step=step)


def _step_scalars(event: StepDone) -> dict[str, float]:
    scalars = {"train/loss": event.loss, "train/lr": event.lr, "train/tokens": float(event.tokens)}
    return scalars if event.part_loss is None else scalars | {"train/part_loss": event.part_loss}


def _epoch_scalars(event: EpochDone) -> dict[str, float]:
    return {"epoch/loss": event.loss} | {f"quality/{name}": value for name, value in event.quality.items()}
