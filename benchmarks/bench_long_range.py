"""Retrieval at eight times the segment length, and what a token costs as inputs grow.

Three models of one shape, one seed, one sequence of batches: full attention; segments of 64 tokens that fusion lets
see each other; the same segments, each for itself. Then, in a larger model, the time per token of one input.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import interleave, report

from ctx_export.pipeline import build
from ctx_export.sources.adaptive import load_adaptive
from ctx_export.subnetwork_latency import CutExport
from ctx_models.checkpoint import save_model
from ctx_models.config import AdaptiveConfig, SegmentConfig
from ctx_models.data import Dataset
from ctx_models.evaluation import evaluate
from ctx_models.heads import TaskModel
from ctx_models.retrieval import RetrievalTask, SyntheticWording, effective_context_length, retrieval_dataset
from ctx_models.subnetwork import SubNetwork
from ctx_models.training import TrainingConfig, train
from ctx_runtime import Runtime

SEGMENT, LENGTH, VALUES, BAR = 64, 512, 16, 0.85
LENGTHS = (64, 128, 256, 512)
WORDING = SyntheticWording(vocab_size=64, values=VALUES)
SHAPE = AdaptiveConfig(
    "encoder", 64, hidden_size=64, num_layers=2, num_heads=4, head_size=16, ffn_size=128, max_length=LENGTH, dropout=0.0
)
"""Of the models that are trained, but for the segments."""
COST_LENGTHS = (2048, 4096, 8192, 16384)
COST_SHAPE = replace(
    SHAPE, vocab_size=1000, hidden_size=384, num_heads=6, head_size=64, ffn_size=1536, max_length=COST_LENGTHS[-1]
)
COST_SEGMENT, ROUNDS = 512, 3
PROFILE = f"{{name: long, threads: 1, overflow: {{overlap: 0}}, buckets: [{{max_length: {COST_SEGMENT}}}]}}"
GOAL = {"points_above_independent": 20, "points_below_full_attention": 3, "growth": 1.1}


@dataclass(frozen=True)
class Stage:
    """Documents that all models learn from: `count` of each length, in batches of `batch_tokens`."""

    task: RetrievalTask
    lengths: tuple[int, ...]
    count: int
    batch_tokens: int


PASSKEY = (
    Stage(RetrievalTask(), (SEGMENT // 2,), 9600, 2048),
    Stage(RetrievalTask(), (LENGTH // 4, LENGTH), 1200, 4096),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, help="of the training documents and of the longest lengths")
    share = parser.parse_args().share
    torch.set_num_threads(1)
    figures = {
        "passkey": compare(PASSKEY, RetrievalTask(), share),
        "cost": cost([length for length in COST_LENGTHS if length <= COST_LENGTHS[-1] * share]),
    }
    report("long_range", {"segment": SEGMENT, "length": LENGTH, **figures, "goal": GOAL})


def compare(stages: tuple[Stage, ...], task: RetrievalTask, share: float) -> dict[str, object]:
    """The accuracy of the three models by length, their effective context length, and how far fusion is from each."""
    figures = {name: learn(make(), stages, task, share) for name, make in CONTENDERS.items()}
    fused, alone, full = (figures[name]["accuracy"][LENGTH] for name in ("fusion", "independent", "full attention"))
    return {
        **figures,
        "points_above_independent": round(100 * (fused - alone), 1),
        "points_below_full_attention": round(100 * (full - fused), 1),
    }


def learn(model: TaskModel, stages: tuple[Stage, ...], task: RetrievalTask, share: float) -> dict[str, Any]:
    started = time.process_time()
    for seed, stage in enumerate(stages):
        data = documents(model, stage.task, stage.lengths, int(stage.count * share), seed)
        train(model, data, TrainingConfig(epochs=1, lr=2e-3, batch_tokens=stage.batch_tokens, seed=seed))
    seconds = time.process_time() - started
    held_out = documents(model, task, LENGTHS, 400, seed=1000)
    scores = {row.max_length: row.value for row in evaluate(model, held_out, length_edges=LENGTHS).rows}
    return {
        "accuracy": scores,
        "effective_context_length": effective_context_length(scores, BAR),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "training_cpu_seconds": round(seconds),
    }


def documents(model: TaskModel, task: RetrievalTask, lengths: Sequence[int], count: int, seed: int) -> Dataset:
    return retrieval_dataset(model, WORDING, task, lengths=lengths, count=count, seed=seed)


def full_attention() -> TaskModel:
    return make(SegmentConfig(LENGTH))


def with_fusion() -> TaskModel:
    return make(SegmentConfig(SEGMENT))


def independent() -> TaskModel:
    """Segments whose fusion is closed, and stays so."""
    model = make(SegmentConfig(SEGMENT))
    model.backbone.fusion.close()
    model.backbone.fusion.requires_grad_(False)
    return model


def make(segment: SegmentConfig) -> TaskModel:
    torch.manual_seed(0)
    return TaskModel(replace(SHAPE, segment=segment), "token-classification", [str(value) for value in range(VALUES)])


CONTENDERS = {"full attention": full_attention, "fusion": with_fusion, "independent": independent}


def cost(lengths: Sequence[int]) -> dict[str, object]:
    """Microseconds of one thread a token of one input: a bundle's segments with fusion, and full attention."""
    rows = {length: np.random.default_rng(length).integers(1, COST_SHAPE.vocab_size, (1, length)) for length in lengths}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measured = {"fusion": run_bundle(folder, rows), "full attention": run_whole(folder, rows)}
    figures = {
        name: {length: round(float(seconds[str(length)].min()) / length * 1e6, 1) for length in lengths}
        for name, seconds in measured.items()
    }
    growth = {name: round(values[lengths[-1]] / values[lengths[0]], 2) for name, values in figures.items()}
    return {"runtime": "ONNX Runtime, one thread, CPU time", "microseconds_per_token": figures, "growth": growth}


def run_bundle(folder: Path, rows: Mapping[int, np.ndarray]) -> dict[str, np.ndarray]:
    """CPU seconds `(rounds,)` of each row through `Runtime.run`."""
    (folder / "profile.yaml").write_text(PROFILE, encoding="utf-8")
    build(save_large(folder / "fusion", COST_SEGMENT), folder / "profile.yaml", folder / "bundle")
    runtime = Runtime.open(folder / "bundle")
    runs = {str(length): partial(runtime.run, {"input_ids": row}) for length, row in rows.items()}
    return interleave(runs, rounds=ROUNDS, clock=time.process_time)


def run_whole(folder: Path, rows: Mapping[int, np.ndarray]) -> dict[str, np.ndarray]:
    """CPU seconds `(rounds,)` of each row through the mask-free graph that a bucket of that length would run."""
    source = load_adaptive(save_large(folder / "whole", max(rows)), task=None, name=None)
    with CutExport(source, max(rows)).open(SubNetwork(), threads=1) as session:
        runs = {str(length): partial(session.run, {"input_ids": row}, bucket="whole") for length, row in rows.items()}
        return interleave(runs, rounds=ROUNDS, clock=time.process_time)


def save_large(folder: Path, segment: int) -> Path:
    torch.manual_seed(0)
    shape = replace(COST_SHAPE, segment=SegmentConfig(segment))
    save_model(TaskModel(shape, "token-classification", ("a", "b")), folder)
    return folder


if __name__ == "__main__":
    main()
