"""`tune`: from a checkpoint and examples to the resource profile that runs the fastest good sub-networks."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ctx_export.evaluation_job import read_dataset
from ctx_export.planned_profile import DEFAULTS, overlap_for, write_profile
from ctx_export.sources.adaptive import load_adaptive
from ctx_export.subnetwork_latency import CutExport, ort_latency
from ctx_models.checkpoint import Checkpoint, load_model, save_model
from ctx_models.config import AdaptiveConfig
from ctx_models.data import Dataset
from ctx_models.evaluation import FULL, QualityRow, QualityTable, evaluate
from ctx_models.heads import TaskModel
from ctx_models.subnetwork import LengthPolicy
from ctx_models.subnetwork import SubNetwork as Part
from ctx_models.tuning import (
    Latency,
    OnTrial,
    Search,
    SearchSpace,
    Trial,
    choose,
    in_segments,
    torch_latency,
    tune,
    with_segment,
)
from ctx_runtime.errors import InputError
from ctx_runtime.resource_profile import BucketEntry, ResourceProfile, SubNetwork

LatencyRuntime = Literal["onnxruntime", "pytorch"]
LATENCY: Mapping[LatencyRuntime, str] = {
    "onnxruntime": "ONNX Runtime, one row, median of 5 runs",
    "pytorch": "PyTorch, one row, median of 5 runs",
}
"""How latency is measured."""


@dataclass(frozen=True)
class TuningJob:
    """What `tune` is asked for.

    Attributes:
        checkpoint: the folder that `train` wrote.
        data: the file of examples that quality is measured on; see `read_examples`.
        edges: the last lengths of the buckets, in tokens, ascending.
        floor: the least quality, as a share of the full network's in the same bucket.
        trials: of each bucket.
        examples: of each bucket that a trial is measured on.
        seed: of the search and of the examples.
        storage: the SQLite file of the search; it goes on where it was left.
        output: the resource profile to write, a `.yaml`; named after the file.
        runtime: what latency is measured in.
    """

    checkpoint: Path
    data: Path
    edges: tuple[int, ...]
    floor: float
    trials: int
    examples: int
    seed: int
    storage: Path
    output: Path
    runtime: LatencyRuntime


@dataclass(frozen=True)
class TuningReport:
    """What was found.

    Attributes:
        job: what was asked for.
        trials: all of them, by bucket.
        policy: the chosen sub-networks.
        quality: of these and of the full network, on all examples of each bucket, with their latency.
        profile: the resource profile that runs them; written to `job.output`.
    """

    job: TuningJob
    trials: tuple[Trial, ...]
    policy: LengthPolicy
    quality: QualityTable
    profile: ResourceProfile

    def chosen(self, length: int) -> Trial | None:
        """The trial of the bucket up to `length` tokens that the policy runs, if it was one."""
        segment, runs = self.policy.steps[-1]
        part = self.policy(length) if length <= segment else runs
        wanted = (length, part, min(length, segment))
        return next((one for one in self.trials if (one.max_length, one.subnetwork, one.segment) == wanted), None)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "latency": LATENCY[self.job.runtime],
            "trials": [dataclasses.asdict(trial) | {"subnetwork": str(trial.subnetwork)} for trial in self.trials],
            "policy": self.policy.to_json(),
            "quality": self.quality.to_json(),
            "profile": str(self.job.output),
        }


def run_tuning(job: TuningJob, *, on_trial: OnTrial | None = None) -> TuningReport:
    """Search, choose, measure the choice on all examples, and write the profile.

    Raises:
        ModelError: the checkpoint, the data, the edges or the storage are not sound, or do not fit each other.
        InputError: the profile can't be written.
    """
    if job.output.suffix not in {".yaml", ".yml"}:
        raise InputError(f"{job.output} does not end in .yaml", hint="a resource profile's file does")
    checkpoint = load_model(job.checkpoint)
    data = read_dataset(checkpoint, job.data)
    search = Search(job.trials, job.examples, job.seed, job.storage, _identity(job, data))
    latency = _latency(job, checkpoint.model)
    known = _known(checkpoint)
    trials = tune(
        checkpoint.model,
        data,
        edges=job.edges,
        space=SearchSpace.of(checkpoint.model.config, known),
        latency=latency,
        search=search,
        known=known,
        on_trial=on_trial,
    )
    policy = choose(trials, floor=job.floor)
    quality = _measure(checkpoint, data, policy, latency)
    profile = _profile(job, policy, checkpoint.model.config)
    write_profile(profile, job.output)
    return TuningReport(job, tuple(trials), policy, quality, profile)


def save_tuning(folder: Path, report: TuningReport) -> None:
    """Write the chosen policy, its quality and its segment length into the checkpoint in `folder`."""
    checkpoint = load_model(folder)
    model = checkpoint.model
    if model.config.segment:
        segment = dataclasses.replace(model.config.segment, length=report.policy.steps[-1][0])
        model.config = dataclasses.replace(model.config, segment=segment)
    save_model(
        model,
        folder,
        policy=report.policy,
        tokenizer=checkpoint.tokenizer,
        quality=[row.to_json() for row in report.quality.rows],
    )


def _known(checkpoint: Checkpoint) -> list[Part]:
    """The sub-networks, but the full one, whose quality the checkpoint states: those that were trained."""
    stated = (Part.from_json(row["subnetwork"]) for row in checkpoint.quality)
    return [part for part in dict.fromkeys(stated) if part != Part()]


def _measure(checkpoint: Checkpoint, data: Dataset, policy: LengthPolicy, latency: Latency) -> QualityTable:
    """The quality of the chosen sub-networks and of the full one at every length, each row with its latency.

    A model without segments is measured on what runs in one piece.
    """
    model, segment = checkpoint.model, policy.steps[-1][0]
    if model.config.segment is None:
        whole = tuple(example for example in data.features if example.length <= segment)
        data = dataclasses.replace(data, features=whole)
    chosen = tuple(dict.fromkeys([*FULL, *(part for _, part in policy.steps)]))

    def timed(row: QualityRow) -> QualityRow:
        measured = latency(row.subnetwork, row.max_length, min(segment, row.max_length))
        return dataclasses.replace(row, latency_ms=measured)

    with in_segments(model, segment):
        table = evaluate(model, data, length_edges=[length for length, _ in policy.steps], subnetworks=chosen)
    return dataclasses.replace(table, rows=tuple(map(timed, table.rows)))


def _latency(job: TuningJob, model: TaskModel) -> Latency:
    if job.runtime == "pytorch":
        return torch_latency(model)
    longest = max(end for end in with_segment(job.edges, model.config) if end <= model.config.max_length)
    return ort_latency(CutExport(load_adaptive(job.checkpoint, task=None, name=None), longest))


def _identity(job: TuningJob, data: Dataset) -> str:
    """Of the weights, the examples and how latency is measured."""
    weights = hashlib.sha256((job.checkpoint / "model.safetensors").read_bytes())
    return f"{weights.hexdigest()} {data.sha256} {LATENCY[job.runtime]}"


def _profile(job: TuningJob, policy: LengthPolicy, config: AdaptiveConfig) -> ResourceProfile:
    """A bucket for each step of the policy; longer inputs run in segments of the last one's length."""
    entries = tuple(
        BucketEntry(max_length=length, subnetwork=SubNetwork.model_validate(part.to_json()) if part.to_json() else None)
        for length, part in policy.steps
    )
    overlap = config.segment.overlap if config.segment else overlap_for(DEFAULTS, policy.steps[-1][0])
    share = f"at least {job.floor:g} times the quality of the full network"
    return ResourceProfile(
        name=re.sub(r"[^A-Za-z0-9._-]+", "-", job.output.stem).lstrip("._-") or "tuned",
        description=f"Tuned: of {job.trials} trials a bucket the fastest with {share}",
        buckets=entries,
        overflow=DEFAULTS.overflow.model_copy(update={"overlap": overlap}),
    )
