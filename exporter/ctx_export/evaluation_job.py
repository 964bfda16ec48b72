"""`evaluate`: the quality of a checkpoint on a file of examples, or on a retrieval task of any length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ctx_models.checkpoint import Checkpoint, save_model
from ctx_models.data import Dataset, encode_examples, read_examples
from ctx_models.errors import ModelError
from ctx_models.evaluation import OnProgress, QualityTable, evaluate
from ctx_models.retrieval import RetrievalTask, effective_context_length, retrieval_dataset, wording_for
from ctx_models.subnetwork import SubNetwork


@dataclass(frozen=True)
class RetrievalRun:
    """A retrieval task to measure.

    Attributes:
        task: what is hidden and asked for.
        lengths: of the documents, in tokens.
        count: documents of each length.
        seed: of the documents.
        bar: the score that a length must exceed to count towards the effective context length.
    """

    task: RetrievalTask
    lengths: tuple[int, ...]
    count: int
    seed: int
    bar: float


@dataclass(frozen=True)
class EvaluationReport:
    """What was measured.

    Attributes:
        quality: by length and sub-network.
        cut: examples longer than the model takes, which lost their end.
        bar: of a retrieval task; None for a file of examples.
    """

    quality: QualityTable
    cut: int = 0
    bar: float | None = None

    @property
    def effective(self) -> dict[SubNetwork, int | None]:
        """The effective context length of each sub-network in tokens, None where even the shortest is too long."""
        if self.bar is None:
            return {}
        scores: dict[SubNetwork, dict[int, float]] = {row.subnetwork: {} for row in self.quality.rows}
        for row in self.quality.rows:
            scores[row.subnetwork][row.max_length] = row.value
        return {part: effective_context_length(by_length, self.bar) for part, by_length in scores.items()}

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        answer = self.quality.to_json() | {"cut": self.cut}
        if self.bar is not None:
            lengths = {str(part): length for part, length in self.effective.items()}
            answer |= {"bar": self.bar, "effective_context_length": lengths}
        return answer


def evaluate_file(
    checkpoint: Checkpoint,
    file: Path,
    *,
    length_edges: Sequence[int],
    subnetworks: Sequence[SubNetwork],
    on_progress: OnProgress | None = None,
) -> EvaluationReport:
    """The quality on labelled examples; see `read_examples` for the file and `evaluate` for the rest.

    Raises:
        ModelError: the file or the sub-networks do not fit the model.
    """
    data = read_dataset(checkpoint, file)
    table = evaluate(
        checkpoint.model, data, length_edges=length_edges, subnetworks=subnetworks, on_progress=on_progress
    )
    return EvaluationReport(table, data.cut)


def evaluate_retrieval(
    checkpoint: Checkpoint,
    run: RetrievalRun,
    *,
    subnetworks: Sequence[SubNetwork],
    on_progress: OnProgress | None = None,
) -> EvaluationReport:
    """The score of a retrieval task by length of the documents.

    Raises:
        ModelError: the model can't take the task, or the lengths do not hold it.
    """
    model = checkpoint.model
    lengths = sorted(set(run.lengths))
    wording = wording_for(model, _tokenizer(checkpoint) if checkpoint.tokenizer else None)
    data = retrieval_dataset(model, wording, run.task, lengths=lengths, count=run.count, seed=run.seed)
    table = evaluate(model, data, length_edges=lengths, subnetworks=subnetworks, on_progress=on_progress)
    return EvaluationReport(table, bar=run.bar)


def read_dataset(checkpoint: Checkpoint, file: Path) -> Dataset:
    """A file of examples as the checkpoint's model takes them.

    Raises:
        ModelError: the file is not sound, its labels are not the model's, or the checkpoint has no tokenizer.
    """
    model = checkpoint.model
    return encode_examples(
        read_examples(file, model.task),
        _tokenizer(checkpoint),
        task=model.task,
        labels=model.labels,
        max_length=model.config.longest_input,
        pad_id=model.config.pad_id,
    )


def save_quality(folder: Path, checkpoint: Checkpoint, quality: QualityTable) -> None:
    """Write the rows of `quality` into the checkpoint in `folder`, in place of those that it has."""
    save_model(
        checkpoint.model,
        folder,
        policy=checkpoint.policy,
        tokenizer=checkpoint.tokenizer,
        quality=[row.to_json() for row in quality.rows],
    )


def _tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    if checkpoint.tokenizer is None:
        raise ModelError(
            "the checkpoint has no tokenizer.json, so it can't read text",
            hint="train it with a tokenizer, or measure a retrieval task: --task passkey",
        )
    tokenizer = Tokenizer.from_file(str(checkpoint.tokenizer))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
