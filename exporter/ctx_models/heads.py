"""Models for tasks: an encoder or decoder and what reads its states."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import nn
from torch.nn import functional

from ctx_models.config import AdaptiveConfig
from ctx_models.decoder import LengthAdaptiveDecoder
from ctx_models.encoder import LengthAdaptiveEncoder
from ctx_models.errors import ModelError
from ctx_models.subnetwork import SubNetwork

Task = Literal["token-classification", "text-classification", "feature-extraction", "text-generation"]


class TaskModel(nn.Module):
    """A length-adaptive model for a task.

    Token classification gives `logits` `(batch, length, labels)`, text classification `(batch, labels)`, text
    generation `(batch, length, vocabulary)` with the weights of the token embeddings; feature extraction gives
    `sentence_embedding` `(batch, hidden)` of length 1.

    Args:
        config: the shape of the network.
        task: what it is for.
        labels: the names of the classes, in order; for the two classifications.

    Raises:
        ModelError: the task does not fit the architecture, or the labels do not fit the task.
    """

    def __init__(self, config: AdaptiveConfig, task: Task, labels: Sequence[str] = ()) -> None:
        super().__init__()
        _check_task(config, task, labels)
        self.config, self.task, self.labels = config, task, tuple(labels)
        self.backbone = LengthAdaptiveDecoder(config) if task == "text-generation" else LengthAdaptiveEncoder(config)
        self.dropout = nn.Dropout(config.dropout)
        if task == "text-classification":
            self.pooler = nn.Linear(config.hidden_size, config.hidden_size)
        if labels:
            self.classifier = nn.Linear(config.hidden_size, len(labels))
            nn.init.normal_(self.classifier.weight, std=1 / math.sqrt(config.hidden_size))
            nn.init.zeros_(self.classifier.bias)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        *,
        subnetwork: SubNetwork | None = None,
    ) -> dict[str, torch.Tensor]:
        """The outputs by name; see `LengthAdaptiveEncoder.forward` for the arguments.

        Raises:
            ModelError: the model has no such sub-network, no types, or takes no input of that length.
        """
        if isinstance(self.backbone, LengthAdaptiveEncoder) and self.reads_documents:
            rows = self.backbone.encode_documents(input_ids, attention_mask, token_type_ids, subnetwork=subnetwork)
            return self.read_documents(rows)
        return self.read_tokens(self.backbone(input_ids, attention_mask, token_type_ids, subnetwork=subnetwork))

    @property
    def reads_documents(self) -> bool:
        """Whether the outputs are one row a document, rather than one a token."""
        return self.task in ("text-classification", "feature-extraction")

    def read_tokens(self, hidden: torch.Tensor) -> dict[str, torch.Tensor]:
        """Outputs of the token tasks, of final states `(batch, length, hidden)`."""
        if self.task == "text-generation":
            return {"logits": functional.linear(hidden, self.backbone.embeddings.tokens.weight)}
        return {"logits": self.classifier(self.dropout(hidden))}

    def read_documents(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """Outputs of the document tasks, of what stands for each document `(batch, hidden)`."""
        if self.task == "feature-extraction":
            return {"sentence_embedding": functional.normalize(rows, dim=-1)}
        return {"logits": self.classifier(self.dropout(torch.tanh(self.pooler(rows))))}


def _check_task(config: AdaptiveConfig, task: str, labels: Sequence[str]) -> None:
    if task not in get_args(Task):
        raise ModelError(f"unknown task {task!r}", hint=f"the tasks are {', '.join(get_args(Task))}")
    wanted = "decoder" if task == "text-generation" else "encoder"
    if config.architecture != wanted:
        raise ModelError(f"{task} needs the architecture {wanted}, not {config.architecture}")
    classifies = task in ("token-classification", "text-classification")
    if classifies != bool(labels) or len(set(labels)) != len(labels):
        raise ModelError(f"{task} {'needs labels, each once' if classifies else 'has no labels'}, not {list(labels)}")
