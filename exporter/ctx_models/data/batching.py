"""Batches of examples of similar length under a budget of tokens: what is not padding is computed, little else."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ctx_models.data.encoding import IGNORED, Dataset, Features


@dataclass(frozen=True, eq=False)
class Batch:
    """Examples as tensors.

    Attributes:
        input_ids: int64 `(batch, length)`, one tensor a text: one, or a query, its positive and perhaps its negative.
        attention_mask: int64 `(batch, length)` for each of `input_ids`; None where no row is padded.
        labels: int64 `(batch, length)` for a label a token, `(batch,)` for one a text, `(batch, 0)` for none.
    """

    input_ids: tuple[Tensor, ...]
    attention_mask: tuple[Tensor | None, ...]
    labels: Tensor

    def to(self, device: torch.device) -> Batch:
        """The batch on `device`."""
        masks = tuple(None if mask is None else mask.to(device) for mask in self.attention_mask)
        return Batch(tuple(ids.to(device) for ids in self.input_ids), masks, self.labels.to(device))


def plan_batches(features: Sequence[Features], batch_tokens: int, *, seed: int | None = None) -> list[list[int]]:
    """Indices into `features`, batch by batch: `len(batch) * longest <= batch_tokens`, or one example alone.

    Examples are taken in order of length, and of how many texts they have. The number of batches does not depend on
    the seed.

    Args:
        features: the examples.
        batch_tokens: the most tokens of a batch's longest text, padding included.
        seed: of the order of the batches, and of examples of one length; None: ascending in length.
    """
    order = list(range(len(features)))
    shuffle = random.Random(seed)  # noqa: S311 (no secret)
    if seed is not None:
        shuffle.shuffle(order)
    order.sort(key=lambda index: (len(features[index].texts), features[index].length))
    batches: list[list[int]] = []
    for index in order:
        example = features[index]
        fits = batches and (len(batches[-1]) + 1) * example.length <= batch_tokens
        if fits and len(features[batches[-1][0]].texts) == len(example.texts):
            batches[-1].append(index)
        else:
            batches.append([index])
    if seed is not None:
        shuffle.shuffle(batches)
    return batches


def collate(dataset: Dataset, indices: Sequence[int]) -> Batch:
    """The examples `indices` of `dataset`, padded to the longest of them; all have as many texts."""
    chosen = [dataset.features[index] for index in indices]
    ids, masks = [], []
    for texts in zip(*(example.texts for example in chosen), strict=True):
        padded, mask = _pad(texts, dataset.pad_id)
        ids.append(padded)
        masks.append(mask)
    labels, _ = _pad([example.labels for example in chosen], IGNORED)
    of_text = dataset.task == "text-classification"
    return Batch(tuple(ids), tuple(masks), labels[:, 0] if of_text else labels)


def _pad(rows: Sequence[Sequence[int]], filler: int) -> tuple[Tensor, Tensor | None]:
    """`rows` as one tensor `(rows, longest)`, and a mask of what is no filler, if there is any."""
    longest = max(map(len, rows))
    padded = torch.tensor([[*row, *[filler] * (longest - len(row))] for row in rows], dtype=torch.int64)
    if all(len(row) == longest for row in rows):
        return padded, None
    lengths = torch.tensor([len(row) for row in rows])
    return padded, (torch.arange(longest) < lengths[:, None]).long()
