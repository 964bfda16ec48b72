"""Low-rank adapters of `peft` on a length-adaptive model: attached, kept within their budget, merged.

LoRA: Hu et al., 2022. AdaLoRA: Zhang et al., "Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning", 2023.
A sub-network takes the rows that it runs of the adapted weight; see `layers.effective_weight`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ctx_models.extras import load_extra
from ctx_models.heads import TaskModel
from ctx_models.training.config import TrainingConfig

_NAME = "default"
_TARGETS = r"backbone\..*\.(query|key|value|output|up|down)"
"""The linear layers of attentions and feed-forward networks, by name."""
_IMPORTANCES = ("ipt", "exp_avg_ipt", "exp_avg_unc")
"""What AdaLoRA's allocator remembers of each singular value, from step to step."""


class Adapters:
    """The adapters of a model; until they are merged they are modules of it.

    Args:
        model: its backbone is frozen from here on; its head is trained as before.
        config: names the method and the rank.
        steps: of the whole run, over which AdaLoRA spends its budget of ranks.

    Raises:
        ModelError: `peft` is not installed.
    """

    def __init__(self, model: TaskModel, config: TrainingConfig, steps: int) -> None:
        peft: Any = load_extra("peft", purpose=f"training with {config.method}")
        common: dict[str, Any] = {"target_modules": _TARGETS, "lora_alpha": 2 * config.rank}
        heads = [name for name, _ in model.named_parameters() if not name.startswith("backbone.")]
        if config.method == "lora":
            self._tuner = peft.LoraModel(model, peft.LoraConfig(r=config.rank, **common), _NAME)
        else:
            budget = {"init_r": config.rank + (config.rank + 1) // 2, "target_r": config.rank, "deltaT": 10}
            spent = {"total_step": steps, "tinit": steps // 10, "tfinal": max(1, steps // 3)}
            self._tuner = peft.AdaLoraModel(model, peft.AdaLoraConfig(**budget, **spent, **common), _NAME)
        self._allocates = config.method == "adalora"
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(parameter.requires_grad or name in heads)

    def add_penalty(self) -> None:
        """Add the gradients of AdaLoRA's penalty, which holds singular vectors orthogonal, to the parameters'."""
        if not self._allocates:
            return
        deviations = []
        for name, parameter in self._tuner.model.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                product = parameter @ parameter.T if "lora_A" in name else parameter.T @ parameter
                deviations.append(torch.linalg.norm(product - torch.eye(len(product), device=product.device)))
        weight = self._tuner.peft_config[_NAME].orth_reg_weight
        (weight * torch.stack(deviations).mean()).backward()

    def allocate(self, step: int) -> None:
        """After the `step`-th update, from 1, and before the gradients are cleared: drop AdaLoRA's least ranks."""
        if self._allocates:
            self._tuner.update_and_allocate(step)

    def merge(self) -> None:
        """Add the adapters to the weights and take them out: the model is as it was, with other weights."""
        self._tuner.merge_and_unload()

    def state(self) -> tuple[dict[str, Tensor], str]:
        """What the adapters remember besides their parameters, as tensors and as JSON."""
        if not self._allocates:
            return {}, "null"
        allocator = self._tuner.rankallocator
        tensors = {f"{kind}/{name}": value for kind in _IMPORTANCES for name, value in getattr(allocator, kind).items()}
        return tensors, json.dumps(self._tuner.peft_config[_NAME].rank_pattern)

    def restore(self, tensors: Mapping[str, Tensor], pattern: str) -> None:
        """Take back what `state` gave."""
        if not self._allocates:
            return
        for key, value in tensors.items():
            kind, _, name = key.partition("/")
            getattr(self._tuner.rankallocator, kind)[name] = value.clone()
        self._tuner.peft_config[_NAME].rank_pattern = json.loads(pattern)
