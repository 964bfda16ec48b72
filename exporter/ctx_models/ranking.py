"""Putting the heads and units that matter first, so that a sub-network takes the best of a pretrained model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from ctx_models.heads import TaskModel
from ctx_models.layers import Attention, FeedForward


def rank_by_importance(model: TaskModel, batches: Iterable[Mapping[str, torch.Tensor]]) -> None:
    """Reorder the heads and the units of every attention and feed-forward network, the important ones first.

    The answers of the whole network stay the same. The importance of a unit is the norm of its values over the batches
    times the norm of its outgoing weights (Sun et al., A Simple and Effective Pruning Approach for Large Language
    Models, 2023, arXiv:2306.11695); that of a head is the sum of the squares over its widths. Padding counts as tokens
    do.

    Args:
        model: changed in place; without adapters.
        batches: representative arguments of its `forward`.
    """
    for block, energy in _measure(model, batches).items():
        if isinstance(block, Attention):
            importance = energy * block.output.weight.detach().square().sum(1)
            heads = importance.view(-1, block.head_size).sum(1).argsort(descending=True, stable=True)
            widths = torch.arange(block.head_size, device=heads.device)
            rows = (heads[:, None] * block.head_size + widths).flatten()
            _reorder(rows, block.output.weight)
            for module in (block.query, block.key, block.value):
                _reorder(rows, module.weight, module.bias)
        else:
            importance = energy * block.down.weight.detach().square().sum(1)
            units = importance.argsort(descending=True, stable=True)
            _reorder(units, block.up.weight, block.up.bias, block.down.weight)


def _measure(
    model: TaskModel, batches: Iterable[Mapping[str, torch.Tensor]]
) -> dict[Attention | FeedForward, torch.Tensor]:
    """The sum over all tokens of the squares of what each block projects back, `(heads * head_size or units,)`."""
    energies: dict[Attention | FeedForward, torch.Tensor] = {}

    def add(block: Attention | FeedForward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        energy = block.inner(*args, **kwargs).square().sum((0, 1))
        energies[block] = energies[block] + energy if block in energies else energy

    blocks = [module for module in model.modules() if isinstance(module, (Attention, FeedForward))]
    handles = [block.register_forward_pre_hook(add, with_kwargs=True) for block in blocks]
    training = model.training
    try:
        with torch.no_grad():
            for batch in batches:
                model.eval()(**batch)
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return energies


@torch.no_grad()
def _reorder(rows: torch.Tensor, *parameters: torch.Tensor) -> None:
    for parameter in parameters:
        parameter.copy_(parameter[rows])
