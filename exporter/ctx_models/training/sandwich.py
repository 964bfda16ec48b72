"""The sandwich rule: which sub-networks learn in a step beside the full one.

Yu and Huang, "Universally Slimmable Networks and Improved Training Techniques" (2019): each step trains the largest
network on the labels, and the smallest and some between on the largest one's answers to the same batch. Hou et al.,
"DynaBERT" (2020) does so for width and depth of a BERT; Cai et al., "Once-for-All" (2020) mixes the largest network's
answers with the labels, as `TrainingConfig.distill` does.
"""

from __future__ import annotations

import itertools
import random

from ctx_models.config import AdaptiveConfig
from ctx_models.errors import ModelError
from ctx_models.subnetwork import SubNetwork
from ctx_models.training.config import TrainingConfig

_WIDTHS = 4
"""Widths of the feed-forward networks from the smallest to the full one."""


def between(smallest: SubNetwork, config: AdaptiveConfig) -> tuple[SubNetwork, ...]:
    """Every sub-network from `smallest` up to the full one, the full one left out: its layers, heads and widths.

    Feed-forward networks come in four evenly spaced widths, rounded to whole units; the resolution of positions is that
    of `smallest`.

    Raises:
        ModelError: the model has no such sub-network, or it is the full one.
    """
    low, full = smallest.resolve(config), SubNetwork().resolve(config)
    step = ((full.ffn or 0) - (low.ffn or 0)) / (_WIDTHS - 1)
    parts = itertools.product(
        range(low.layers or 1, (full.layers or 1) + 1),
        range(low.heads or 1, (full.heads or 1) + 1),
        sorted({round((low.ffn or 0) + index * step) for index in range(_WIDTHS)}),
    )
    found = tuple(SubNetwork(*part, smallest.position_resolution) for part in parts if part != _size(full))
    if not found:
        raise ModelError(f"{smallest} is the full network", hint="name a smaller one, such as l3")
    return found


def draw(config: TrainingConfig, model: AdaptiveConfig, step: int) -> list[SubNetwork]:
    """The sub-networks of a step: the smallest, and some of the others; the same ones whenever the step is run.

    Args:
        config: names the sub-networks and how many to draw.
        model: the network that they are parts of.
        step: counted over all epochs.
    """
    if not config.sandwich:
        return []
    smallest, *others = sorted(config.sandwich, key=lambda part: part.flops(model, model.window))
    chance = random.Random(f"{config.seed}:{step}")  # noqa: S311 (no secret)
    return [smallest, *chance.sample(others, min(config.random_per_step, len(others)))]


def _size(part: SubNetwork) -> tuple[int | None, int | None, int | None]:
    return part.layers, part.heads, part.ffn
