"""The loss of a step: the task's for the full network, the task's and the full network's answers for its parts."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ctx_models.data import IGNORED, Batch
from ctx_models.heads import TaskModel
from ctx_models.subnetwork import SubNetwork
from ctx_models.training.config import Precision

_TEMPERATURE = 0.05
"""Divides the cosines of embeddings before the softmax (Gao et al., SimCSE, 2021)."""


@dataclass(frozen=True)
class Losses:
    """The losses of one step: of the full network, and of the mean of its sub-networks, if any ran."""

    full: float
    parts: float | None


def scores_and_targets(model: TaskModel, batch: Batch, subnetwork: SubNetwork | None) -> tuple[Tensor, Tensor]:
    """What is to be decided `(decisions, choices)` float32, and the right choices `(decisions,)` int64.

    A decision is a labelled token, a text, or a query whose choices are all texts of the batch: those of the other
    queries are its negatives (Karpukhin et al., Dense Passage Retrieval, 2020).
    """
    outputs = [
        model(ids, mask, subnetwork=subnetwork) for ids, mask in zip(batch.input_ids, batch.attention_mask, strict=True)
    ]
    if model.task == "feature-extraction":
        query, *texts = (output["sentence_embedding"].float() for output in outputs)
        return query @ torch.cat(texts).T / _TEMPERATURE, torch.arange(len(query), device=query.device)
    decided = batch.labels != IGNORED
    return outputs[0]["logits"][decided].float(), batch.labels[decided]


def accumulate_gradients(
    model: TaskModel, batch: Batch, parts: Sequence[SubNetwork], *, distill: float, precision: Precision
) -> Losses:
    """Add the gradients of the mean loss of the full network and its `parts` to those of the parameters.

    Each network's graph is freed before the next runs, so that memory is that of the full network alone.

    Args:
        model: in train mode.
        batch: on the device of the model.
        parts: sub-networks that learn from the full network's answers to this batch, which stay as they are.
        distill: the share of those answers in the loss of a part, against the labels.
        precision: that of the activations.
    """
    networks = 1 + len(parts)
    with _autocast(batch, precision):
        scores, targets = scores_and_targets(model, batch, None)
    loss = functional.cross_entropy(scores, targets)
    (loss / networks).backward()  # type: ignore[no-untyped-call]
    answers = scores.detach().softmax(-1)
    part_losses = []
    for part in parts:
        with _autocast(batch, precision):
            scores, _ = scores_and_targets(model, batch, part)
        learned = functional.kl_div(scores.log_softmax(-1), answers, reduction="batchmean")
        part_loss = distill * learned + (1 - distill) * functional.cross_entropy(scores, targets)
        (part_loss / networks).backward()  # type: ignore[no-untyped-call]
        part_losses.append(part_loss.item())
    return Losses(loss.item(), sum(part_losses) / len(part_losses) if part_losses else None)


def _autocast(batch: Batch, precision: Precision) -> contextlib.AbstractContextManager[object]:
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(batch.labels.device.type, dtype=torch.bfloat16)
