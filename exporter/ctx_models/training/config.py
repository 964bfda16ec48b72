"""What a training run is: everything that its result depends on, besides the model and the data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from ctx_models.errors import ModelError
from ctx_models.subnetwork import SubNetwork

Method: TypeAlias = Literal["full", "lora", "adalora"]
Precision: TypeAlias = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class TrainingConfig:
    """The settings of a run.

    Attributes:
        epochs: passes over the data.
        lr: the highest learning rate.
        warmup: the share of all steps over which the learning rate rises from 0; it falls back to 0 over the others.
        weight_decay: of matrices; biases and norms have none.
        clip: the largest norm of a step's gradients.
        batch_tokens: tokens of a batch, padding included; see `plan_batches`.
        seed: of dropout, of the order of batches and of the choice of sub-networks.
        precision: of activations; `bf16` by autocast. Parameters are float32.
        method: what is trained: all parameters, or low-rank adapters of the backbone's linear layers and the head.
        rank: of the adapters; AdaLoRA starts with half as much again and ends with it on average.
        sandwich: sub-networks to train beside the full network; empty: the full network alone.
        random_per_step: how many of them a step draws beside the smallest.
        distill: the share of a sub-network's loss that is the full network's answer; the rest is that of the labels.
        checkpoint_every: steps from one snapshot to the next; the end of an epoch has one too.
    """

    epochs: int = 3
    lr: float = 2e-4
    warmup: float = 0.1
    weight_decay: float = 0.01
    clip: float = 1.0
    batch_tokens: int = 1024
    seed: int = 0
    precision: Precision = "fp32"
    method: Method = "full"
    rank: int = 8
    sandwich: tuple[SubNetwork, ...] = ()
    random_per_step: int = 1
    distill: float = 0.5
    checkpoint_every: int = 500

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_tokens", "rank", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ModelError(f"{name} is at least 1, not {getattr(self, name)}")
        for name in ("warmup", "distill"):
            if not 0 <= getattr(self, name) <= 1:
                raise ModelError(f"{name} is a share, 0..1, not {getattr(self, name):g}")
        for name, words in (("precision", get_args(Precision)), ("method", get_args(Method))):
            if getattr(self, name) not in words:
                raise ModelError(f"{name} is one of {', '.join(words)}, not {getattr(self, name)!r}")
        if not (self.lr > 0 and self.clip > 0):
            raise ModelError(f"lr and clip are above 0, not {self.lr:g} and {self.clip:g}")
        if self.random_per_step < 0 or self.weight_decay < 0:
            raise ModelError("random_per_step and weight_decay are at least 0")

    def to_json(self) -> dict[str, Any]:
        """As JSON values; sub-networks as text."""
        return dataclasses.asdict(self) | {"sandwich": [str(part) for part in self.sandwich]}
