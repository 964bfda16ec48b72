"""What a training run reports while it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class StepDone:
    """One step of the optimizer.

    Attributes:
        step: how many are done, over all epochs.
        steps: how many there will be.
        epoch: the current one, from 1.
        loss: the full network's loss of the task, before the step.
        part_loss: the mean loss of the sub-networks of this step; None without any.
        lr: the learning rate of the step.
        tokens: tokens of the batch, padding not counted.
    """

    step: int
    steps: int
    epoch: int
    loss: float
    part_loss: float | None
    lr: float
    tokens: int


@dataclass(frozen=True)
class EpochDone:
    """A pass over the data, evaluated.

    Attributes:
        epoch: which, from 1.
        step: steps done over all epochs.
        loss: the mean of its steps' losses.
        quality: what the evaluation found, by name.
    """

    epoch: int
    step: int
    loss: float
    quality: Mapping[str, float]


@dataclass(frozen=True)
class Resumed:
    """A run goes on after `step` steps of `steps`."""

    step: int
    steps: int


Event: TypeAlias = StepDone | EpochDone | Resumed
OnEvent: TypeAlias = Callable[[Event], None]
