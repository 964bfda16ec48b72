"""How good a model is, by length of its inputs and by sub-network."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.nn import functional

from ctx_models.data import IGNORED, Batch, Dataset, Task, collate, plan_batches
from ctx_models.errors import ModelError
from ctx_models.extras import load_extra
from ctx_models.heads import TaskModel
from ctx_models.subnetwork import SubNetwork

Metric = Literal["f1", "accuracy", "mrr"]
"""What stands for the quality of a model, 0..1: entities' F1, the share of right answers, mean reciprocal rank."""
OnProgress = Callable[[int, int], None]
"""Told `(done, total)` batches."""

FULL = (SubNetwork(),)
"""The whole network alone."""


@dataclass(frozen=True)
class QualityRow:
    """The quality of one sub-network at inputs of `min_length..max_length` tokens; measures of other tasks are None.

    Attributes:
        examples: inputs that were measured.
        metric: which of the measures is the quality.
        loss: mean cross entropy of what is predicted, in nats.
        precision: of entities (seqeval: exact spans, over all types), or else the mean over classes; so `recall`, `f1`.
        accuracy: of tokens or texts.
        perplexity: of causal models.
        mrr: mean reciprocal rank of a query's positive among those of all queries.
        recall_at_1: share of queries whose positive comes first.
        latency_ms: of one input of `max_length` tokens, where it was measured.
    """

    min_length: int
    max_length: int
    subnetwork: SubNetwork
    examples: int
    metric: Metric
    loss: float | None = None
    precision: float | None = None
    recall: float | None = None
    f1: float | None = None
    accuracy: float | None = None
    perplexity: float | None = None
    mrr: float | None = None
    recall_at_1: float | None = None
    latency_ms: float | None = None

    @property
    def value(self) -> float:
        """The quality, 0..1."""
        return float(getattr(self, self.metric))

    def to_json(self) -> dict[str, Any]:
        """As JSON values, without the measures of other tasks."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        given = {name: value for name, value in values.items() if value is not None}
        return given | {"subnetwork": self.subnetwork.to_json(), "value": self.value}


@dataclass(frozen=True)
class QualityTable:
    """The quality of a model.

    Attributes:
        task: the model's.
        rows: by sub-network, then ascending by length; lengths without examples have none.
        overall: over all lengths, one a sub-network.
    """

    task: Task
    rows: tuple[QualityRow, ...]
    overall: tuple[QualityRow, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON values: what stands in a checkpoint's `quality.json`."""
        return {
            "task": self.task,
            "rows": [row.to_json() for row in self.rows],
            "overall": [row.to_json() for row in self.overall],
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> QualityTable:
        """What `to_json` gave.

        Raises:
            ModelError: it is no such table.
        """
        try:
            rows, overall = (tuple(map(_read_row, values[key])) for key in ("rows", "overall"))
            return cls(values["task"], rows, overall)
        except (AttributeError, KeyError, TypeError) as error:
            raise ModelError(
                f"a table of quality is not sound: {error}", hint="ctx-export evaluate makes it"
            ) from error


def evaluate(
    model: TaskModel,
    data: Dataset,
    *,
    length_edges: Sequence[int] = (),
    subnetworks: Sequence[SubNetwork] = FULL,
    batch_tokens: int = 4096,
    on_progress: OnProgress | None = None,
) -> QualityTable:
    """Measure `model` on `data`, by length and by sub-network.

    Args:
        model: any task; its mode (training or not) is left as it was.
        data: labelled for that task.
        length_edges: the last length of each bucket, ascending; longer inputs make one more.
        subnetworks: what is measured; by default the whole network.
        batch_tokens: tokens of a batch, padding included; changes no figure.
        on_progress: told after every batch.

    Raises:
        ModelError: edges that do not ascend, no examples, a sub-network that the model does not have, or a missing
            package.
    """
    for part in subnetworks:
        part.resolve(model.config)
    buckets = length_buckets(length_edges, max((example.length for example in data.features), default=0))
    batches = plan_batches(data.features, batch_tokens)
    steps = _counter(len(batches) * len(subnetworks), on_progress)
    rows: list[QualityRow] = []
    overall: list[QualityRow] = []
    was_training = model.training
    model.eval()
    try:
        for subnetwork in subnetworks:
            measured = _measure(model, data, batches, subnetwork, steps)
            for shortest, longest in buckets:
                inside = [one for one in measured if shortest <= one.length <= longest]
                rows += [_summarise(inside, data, (shortest, longest), subnetwork)] if inside else []
            overall.append(_summarise(measured, data, (1, buckets[-1][1]), subnetwork))
    finally:
        model.train(was_training)
    return QualityTable(data.task, tuple(rows), tuple(overall))


def length_buckets(edges: Sequence[int], longest: int) -> list[tuple[int, int]]:
    """`(min_length, max_length)` of the buckets that end at `edges`, and of one more up to `longest` if that is beyond.

    Raises:
        ModelError: the edges do not ascend from 1, or there is no input at all.
    """
    if longest < 1:
        raise ModelError("there is no example to evaluate on")
    ends = [*edges, *([longest] if not edges or longest > edges[-1] else [])]
    starts = [1, *(end + 1 for end in ends[:-1])]
    for start, end in zip(starts, ends, strict=True):
        if end < start:
            raise ModelError(f"the edges of length buckets ascend from 1, not {', '.join(map(str, edges))}")
    return list(zip(starts, ends, strict=True))


@dataclass(frozen=True)
class _Answered:
    """One example of a labelled task: true and predicted indices where there is something to predict."""

    length: int
    truth: list[int]
    predicted: list[int]
    loss: float


@dataclass(frozen=True)
class _Ranked:
    """One query: the rank of its positive, from 1."""

    length: int
    rank: int


def _counter(total: int, on_progress: OnProgress | None) -> Callable[[], None]:
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if on_progress is not None:
            on_progress(done, total)

    return step


@torch.inference_mode()
def _measure(
    model: TaskModel, data: Dataset, batches: list[list[int]], subnetwork: SubNetwork, step: Callable[[], None]
) -> Sequence[_Answered | _Ranked]:
    """Every example of `data` through one sub-network."""
    device = next(model.parameters()).device
    measured: list[_Answered | _Ranked] = []
    embedded: list[tuple[list[int], torch.Tensor, torch.Tensor]] = []
    for indices in batches:
        batch = collate(data, indices).to(device)
        outputs = [
            next(iter(model(ids, mask, subnetwork=subnetwork).values()))
            for ids, mask in zip(batch.input_ids[:2], batch.attention_mask[:2], strict=True)
        ]
        lengths = [data.features[index].length for index in indices]
        if data.task == "feature-extraction":
            embedded.append((lengths, outputs[0], outputs[1]))
        else:
            measured += _answer(outputs[0], batch, lengths)
        step()
    return list(_rank(embedded)) if embedded else measured


def _answer(logits: torch.Tensor, batch: Batch, lengths: Sequence[int]) -> Iterator[_Answered]:
    """Logits `(batch, [length,] classes)` against the labels of a batch."""
    rows, labels = logits.float().flatten(0, -2), batch.labels.flatten()
    losses = functional.cross_entropy(rows, labels, ignore_index=IGNORED, reduction="none").view(len(lengths), -1)
    predicted, truth = rows.argmax(dim=-1).view(len(lengths), -1), labels.view(len(lengths), -1)
    for index, length in enumerate(lengths):
        asked = truth[index] != IGNORED
        loss = float(losses[index].sum())
        yield _Answered(length, truth[index][asked].tolist(), predicted[index][asked].tolist(), loss)


def _rank(embedded: Sequence[tuple[list[int], torch.Tensor, torch.Tensor]]) -> Iterator[_Ranked]:
    """The rank of each query's own positive among the positives of all queries; equals rank before it."""
    positives = torch.cat([positive for _, _, positive in embedded])
    start = 0
    for lengths, queries, _ in embedded:
        scores = queries @ positives.T
        own = scores.diagonal(start).unsqueeze(1)
        yield from map(_Ranked, lengths, (scores >= own).sum(dim=-1).tolist())
        start += len(lengths)


def _summarise(
    measured: Sequence[_Answered | _Ranked], data: Dataset, lengths: tuple[int, int], subnetwork: SubNetwork
) -> QualityRow:
    answered = [one for one in measured if isinstance(one, _Answered)]
    ranks = [one.rank for one in measured if isinstance(one, _Ranked)]
    row = QualityRow(*lengths, subnetwork, len(measured), "mrr" if ranks else "accuracy")
    if ranks:
        mrr, first = sum(1 / rank for rank in ranks) / len(ranks), ranks.count(1) / len(ranks)
        return dataclasses.replace(row, mrr=mrr, recall_at_1=first)
    predictions = sum(len(one.truth) for one in answered)
    right = sum(a == b for one in answered for a, b in zip(one.truth, one.predicted, strict=True))
    loss = sum(one.loss for one in answered) / predictions
    row = dataclasses.replace(row, loss=loss, accuracy=right / predictions)
    if data.task == "text-generation":
        return dataclasses.replace(row, perplexity=math.exp(loss))
    entities = data.task == "token-classification" and any(label[:2] in ("B-", "I-") for label in data.labels)
    precision, recall, f1 = _entity_scores(answered, data.labels) if entities else _class_scores(answered)
    return dataclasses.replace(row, metric="f1" if entities else "accuracy", precision=precision, recall=recall, f1=f1)


def _entity_scores(answered: Sequence[_Answered], labels: Sequence[str]) -> tuple[float, float, float]:
    """Precision, recall and F1 of exact spans, over all types, as conlleval counts them."""
    named = {
        kind: [[labels[index] for index in getattr(one, kind)] for one in answered] for kind in ("truth", "predicted")
    }
    metrics = load_extra("seqeval.metrics.sequence_labeling", purpose="the F1 of entities")
    scores = metrics.precision_recall_fscore_support(*named.values(), average="micro", zero_division=0)
    return float(scores[0]), float(scores[1]), float(scores[2])


def _class_scores(answered: Sequence[_Answered]) -> tuple[float, float, float]:
    """The means over classes of precision, recall and F1."""
    indices = {kind: [index for one in answered for index in getattr(one, kind)] for kind in ("truth", "predicted")}
    metrics = load_extra("sklearn.metrics", purpose="the F1 of classes")
    scores = metrics.precision_recall_fscore_support(*indices.values(), average="macro", zero_division=0)
    return float(scores[0]), float(scores[1]), float(scores[2])


def _read_row(values: Mapping[str, Any]) -> QualityRow:
    given = {name: value for name, value in values.items() if name != "value"}
    return QualityRow(**given | {"subnetwork": SubNetwork.from_json(values["subnetwork"])})
