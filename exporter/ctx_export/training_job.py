"""`train`: from a pretrained model and files of examples to a checkpoint of a length-adaptive model."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from ctx_export.sources import load_source
from ctx_export.sources.huggingface import Encoder
from ctx_models.checkpoint import is_checkpoint, load_model, save_model
from ctx_models.data import Dataset, encode_examples, label_set, read_examples
from ctx_models.errors import ModelError
from ctx_models.evaluation import QualityTable, evaluate, length_buckets
from ctx_models.heads import Task, TaskModel
from ctx_models.pretrained import adapt_bert
from ctx_models.subnetwork import SubNetwork
from ctx_models.training import Event, TrainingConfig, between, train


@dataclass(frozen=True)
class TrainingJob:
    """What `train` is asked for.

    Attributes:
        model: a Hugging Face folder or cached id of the BERT family, or a checkpoint of a length-adaptive model.
        task: what is learned.
        train: the file of examples to learn from; see `read_examples`.
        valid: the file of examples to measure on after each epoch, if any.
        output: the checkpoint; snapshots of the unfinished run lie beside it.
        config: how it is trained.
        smallest: a sub-network that is trained and measured too, and of those between it and the full one some are
            trained in each step.
        length_edges: the last lengths of the ranges that quality is measured in, in tokens, ascending.
        resume: go on with the unfinished run.
    """

    model: str
    task: Task
    train: Path
    valid: Path | None
    output: Path
    config: TrainingConfig
    smallest: SubNetwork | None = None
    length_edges: tuple[int, ...] = ()
    resume: bool = False

    @property
    def snapshots(self) -> Path:
        """Where the snapshots of the unfinished run are."""
        return self.output.with_name(f"{self.output.name}.training")

    @property
    def measured(self) -> tuple[SubNetwork, ...]:
        """The sub-networks whose quality is measured: the full one, and those that were named."""
        return (SubNetwork(), *self.config.sandwich, *([self.smallest] if self.smallest else []))


@dataclass(frozen=True)
class TrainingReport:
    """What a finished run made.

    Attributes:
        job: what was asked for.
        labels: that the model knows.
        examples: that it learned from.
        cut: how many of those were longer than the model takes, and cut.
        parameters: of the model.
        quality: of the result; None without a file to measure on.
    """

    job: TrainingJob
    labels: tuple[str, ...]
    examples: int
    cut: int
    parameters: int
    quality: QualityTable | None

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "checkpoint": str(self.job.output),
            "task": self.job.task,
            "labels": list(self.labels),
            "examples": self.examples,
            "cut": self.cut,
            "parameters": self.parameters,
            "settings": self.job.config.to_json(),
            "quality": self.quality.to_json() if self.quality else None,
        }


def run_training(
    job: TrainingJob,
    *,
    on_event: Callable[[Event], None] = lambda event: None,
    on_quality: Callable[[QualityTable], None] = lambda table: None,
) -> TrainingReport:
    """Train, measuring after each epoch, and save the checkpoint, on a GPU where PyTorch has one.

    Args:
        job: what to do.
        on_event: called after each step and epoch.
        on_quality: called with what was measured after each epoch, before its event.

    Raises:
        SourceError: the pretrained model can't be loaded.
        ModelError: the files are not sound, the model or the settings do not fit, or there is nothing to resume.
    """
    if job.output.exists() and not is_checkpoint(job.output):
        raise ModelError(f"{job.output} is there, and is no length-adaptive model", hint="give another folder")
    length_buckets(job.length_edges, longest=1)  # they are needed after the first epoch, which may take hours
    model, tokenizer_file, data, valid = _prepare(job)
    config = job.config
    if job.smallest:
        config = dataclasses.replace(config, sandwich=(*config.sandwich, *between(job.smallest, model.config)))
    tables: list[QualityTable] = []

    def measure(trained: TaskModel) -> Mapping[str, float]:
        if valid is None:
            return {}
        tables.append(_measure(trained, valid, job))
        on_quality(tables[-1])
        return _scalars(tables[-1])

    model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    train(model, data, config, snapshots=job.snapshots, resume=job.resume, evaluate=measure, on_event=on_event)
    if valid is not None and not tables:  # resumed behind the last epoch
        tables.append(_measure(model, valid, job))
    quality = tables[-1] if tables else None
    rows = [row.to_json() for row in quality.rows] if quality else []
    save_model(model.to("cpu"), job.output, tokenizer=tokenizer_file, quality=rows)
    shutil.rmtree(job.snapshots)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return TrainingReport(job, model.labels, len(data.features), data.cut, parameters, quality)


def _prepare(job: TrainingJob) -> tuple[TaskModel, Path, Dataset, Dataset | None]:
    """The model, its tokenizer.json, what it learns from and what it is measured on."""
    examples = read_examples(job.train, job.task)
    held_out = read_examples(job.valid, job.task) if job.valid else None
    model, tokenizer_file = _load_model(job, label_set(examples))
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    settings: dict[str, Any] = {
        "task": job.task,
        "labels": model.labels,
        "max_length": model.config.longest_input,
        "pad_id": model.config.pad_id,
    }
    data = encode_examples(examples, tokenizer, **settings)
    valid = encode_examples(held_out, tokenizer, **settings) if held_out else None
    return model, tokenizer_file, data, valid


def _load_model(job: TrainingJob, labels: tuple[str, ...]) -> tuple[TaskModel, Path]:
    """A checkpoint's model with its own labels, or a pretrained encoder with a new head for `labels`."""
    if is_checkpoint(Path(job.model)):
        checkpoint = load_model(Path(job.model))
        model, tokenizer = checkpoint.model, checkpoint.tokenizer
        if model.task != job.task:
            raise ModelError(f"{job.model} is a model for {model.task}, not {job.task}", hint=f"--task {model.task}")
    else:
        source = load_source(job.model, task="feature-extraction")
        tokenizer = source.tokenizer
        pretrained = source.module.model if isinstance(source.module, Encoder) else source.module
        torch.manual_seed(job.config.seed)
        model = adapt_bert(pretrained, task=job.task, labels=labels)
    if tokenizer is None:
        raise ModelError(f"{job.model} has no tokenizer.json", hint="copy the tokenizer into the folder")
    return model, tokenizer


def _measure(model: TaskModel, data: Dataset, job: TrainingJob) -> QualityTable:
    return evaluate(model, data, length_edges=job.length_edges, subnetworks=job.measured)


def _scalars(table: QualityTable) -> dict[str, float]:
    """The quality by name, such as `f1/full/1-16` and `f1/l3/all`."""
    rows = {f"{row.metric}/{row.subnetwork}/{row.min_length}-{row.max_length}": row.value for row in table.rows}
    return rows | {f"{row.metric}/{row.subnetwork}/all": row.value for row in table.overall}
