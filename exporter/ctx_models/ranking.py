"""Putting the heads and units that matter first, so that a sub-network takes the best of a pretrained model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from ctx_models.heads import TaskModel
from ctx_models.layers import Attention, FeedForward, Layer


def rank_by_importance(model: TaskModel, batches: Iterable[Mapping[str, torch.Tensor]]) -> None:
    """Reorder the heads and the feed-forward units of each layer, the important first; the answers stay the same.

    A unit's importance is the norm of its values over the batches times that of its outgoing weights (Sun et al., A
    Simple and Effective Pruning Approach for Large Language Models, 2023, arXiv:2306.11695); squared and summed over
    its widths, it is a head's. Padding counts as tokens do.

    Args:
        model: changed in place; without adapters.
        batches: representative arguments of its `forward`.
    """
    layers = [module for module in model.modules() if isinstance(module, Layer)]
    energies = _measure(model, [block for layer in layers for block in (layer.attention, layer.ffn)], batches)
    for layer in layers:
        attention, ffn = layer.attention, layer.ffn
        importance = energies[attention] * attention.output.weight.detach().square().sum(1)
        heads = importance.view(-1, attention.head_size).sum(1).argsort(descending=True, stable=True)
        widths = torch.arange(attention.head_size, device=heads.device)
        rows = (heads[:, None] * attention.head_size + widths).flatten()
        _reorder(rows, attention.output.weight)
        for module in (attention.query, attention.key, attention.value):
            _reorder(rows, module.weight, module.bias)
        importance = energies[ffn] * ffn.down.weight.detach().square().sum(1)
        _reorder(importance.argsort(descending=True, stable=True), ffn.up.weight, ffn.up.bias, ffn.down.weight)


def _measure(
    model: TaskModel, blocks: Iterable[Attention | FeedForward], batches: Iterable[Mapping[str, torch.Tensor]]
) -> dict[nn.Module, torch.Tensor]:
    """The sum over all tokens of the squares of what each block projects back, `(heads * head_size or units,)`."""
    energies: dict[nn.Module, torch.Tensor] = {}

    def add(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inner: torch.Tensor = block.inner(*args, **kwargs)  # type: ignore[operator]
        energies[block] = energies.get(block, torch.zeros(())) + inner.square().sum((0, 1))

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
