"""Retrieval at eight times the segment length, and what a token costs as inputs grow.

Three models of one shape, one seed, one sequence of batches: full attention; segments of 64 tokens that fusion lets
see each other; the same segments, each for itself. Then, in a larger model, the time per token of one input.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from measure import interleave, report

from ctx_models.config import AdaptiveConfig, SegmentConfig
from ctx_models.data import Dataset
from ctx_models.evaluation import evaluate
from ctx_models.heads import TaskModel
from ctx_models.retrieval import RetrievalTask, SyntheticWording, effective_context_length, retrieval_dataset
from ctx_models.training import TrainingConfig, train

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
    """Microseconds a token of one input, in segments with fusion and with full attention."""
    shapes = {"fusion": SegmentConfig(COST_SEGMENT), "full attention": SegmentConfig(COST_LENGTHS[-1])}
    models = {name: make_large(segment) for name, segment in shapes.items()}
    figures: dict[str, dict[int, float]] = {name: {} for name in models}
    for length in lengths:
        ids = torch.randint(COST_SHAPE.vocab_size, (1, length))
        runs = {name: partial(model, ids) for name, model in models.items()}
        with torch.inference_mode():
            seconds = interleave(runs, rounds=ROUNDS, clock=time.process_time)
        for name, measured in seconds.items():
            figures[name][length] = round(float(measured.min()) / length * 1e6, 1)
    growth = {name: round(values[lengths[-1]] / values[lengths[0]], 2) for name, values in figures.items()}
    return {"runtime": "PyTorch, one thread, CPU time", "microseconds_per_token": figures, "growth": growth}


def make_large(segment: SegmentConfig) -> TaskModel:
    torch.manual_seed(0)
    return TaskModel(replace(COST_SHAPE, segment=segment), "token-classification", ("a", "b")).eval()


if __name__ == "__main__":
    main()
