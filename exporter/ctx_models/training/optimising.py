"""AdamW with a linear warmup and decay, as a function of the step alone."""

from __future__ import annotations

import math

import torch
from torch import nn

from ctx_models.errors import ModelError
from ctx_models.training.config import TrainingConfig


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW over what is trained; weight decay for matrices only (Loshchilov and Hutter, 2019)."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [item for item in trained if item.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [item for item in trained if item.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, fused=True)


def learning_rate(config: TrainingConfig, step: int, steps: int) -> float:
    """The learning rate of `step`, from 0, of `steps`: up to `config.lr` over the warmup, then down to 0."""
    rising = math.ceil(config.warmup * steps)
    share = (step + 1) / rising if step < rising else (steps - step) / max(1, steps - rising)
    return config.lr * share


def update(model: nn.Module, optimizer: torch.optim.AdamW, *, lr: float, clip: float) -> None:
    """One step of the optimizer over the gradients that stand in the parameters, clipped; they are kept.

    Raises:
        ModelError: the gradients are not finite.
    """
    norm = nn.utils.clip_grad_norm_(model.parameters(), clip)
    if not norm.isfinite():
        raise ModelError("the gradients are not finite: training has diverged", hint="lower the learning rate")
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
