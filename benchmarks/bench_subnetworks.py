"""Half of a network: how much faster it is, how good it is, and what it costs in bytes.

Speed and bytes are those of all-MiniLM-L6-v2, whatever it was trained for. How good the half is takes two checkpoints
of one task, one that was trained with its parts (`ctx-export train --sandwich l3`) and one that was trained whole (the
same command without it), and labelled examples. Sessions of one thread run in the calling thread, so that its CPU
time is all there is to measure, and what the neighbours do is not.

Usage: python bench_subnetworks.py [TRAINED CONVENTIONAL DATA]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import interleave, minilm, report
from transformers import AutoModel

from ctx_export.evaluation_job import evaluate_file
from ctx_export.pipeline import build
from ctx_models.checkpoint import load_model, save_model
from ctx_models.evaluation import QualityRow
from ctx_models.pretrained import adapt_bert
from ctx_models.subnetwork import SubNetwork
from ctx_runtime import Runtime
from ctx_runtime.resource_profile import ResourceProfile

LENGTHS, ROUNDS = (16, 32, 64, 128), 200
RANGES = (16, 32, 64)
"""The last lengths of the ranges that quality is measured in, in tokens."""
FULL, HALF = SubNetwork(), SubNetwork(layers=3)
FOUR = ("l2-h6-f768", "l3", "l4-h9-f1152", "full")
"""The sub-networks whose weights are compared with those of the largest alone."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trained", type=Path, nargs="?", help="the checkpoint whose parts were trained with it")
    parser.add_argument("conventional", type=Path, nargs="?", help="the checkpoint that was trained whole")
    parser.add_argument("data", type=Path, nargs="?", help="labelled examples that neither learned from")
    options = parser.parse_args()
    torch.set_num_threads(1)
    report("subnetworks", speed_and_bytes())
    if options.data:
        checkpoints = {"trained with its parts": options.trained, "trained whole": options.conventional}
        tables = {name: quality(folder, options.data) for name, folder in checkpoints.items()}
        report("subnetworks_quality", {"part": str(HALF), **tables, "goal": {"kept": 0.97}})


def speed_and_bytes() -> dict[str, object]:
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        model = adapt_bert(AutoModel.from_pretrained(minilm()))
        save_model(model, Path(folder) / "minilm")
        return {
            "part": str(HALF),
            "load": load,
            "flops_ratio": {n: round(FULL.flops(model.config, n) / HALF.flops(model.config, n), 3) for n in LENGTHS},
            "clock": "CPU time of the one thread",
            "latency": latency(Path(folder) / "minilm"),
            "weights": weights(Path(folder) / "minilm"),
            "goal": {"speedup": 1.7, "weights_ratio": 1.02},
        }


def latency(checkpoint: Path) -> list[dict[str, object]]:
    """One row of each length through a bundle of the part and through one of the whole, in turns."""
    with tempfile.TemporaryDirectory() as folder:
        whole = build(checkpoint, profile([FULL]), Path(folder) / "whole.bundle").bundle
        half = build(checkpoint, profile([HALF]), Path(folder) / "half.bundle").bundle
        with Runtime.open(whole, share_weights="off") as large, Runtime.open(half, share_weights="off") as small:
            return [compare(large, small, length) for length in LENGTHS]


def compare(large: Runtime, small: Runtime, length: int) -> dict[str, object]:
    """Milliseconds of a row of `length` tokens, and how many times faster the small one is."""
    row = {"input_ids": np.random.default_rng(length).integers(1000, 20000, (1, length))}
    runs = {"whole": partial(large.run, row), "part": partial(small.run, row)}
    seconds = interleave(runs, rounds=ROUNDS, clock=time.thread_time, untimed=1)
    figures: dict[str, object] = {"length": length}
    for name, share in (("median", 50), ("p10", 10)):
        whole, part = (float(np.percentile(seconds[contender], share)) * 1e3 for contender in runs)
        figures[name] = {"whole_ms": round(whole, 3), "part_ms": round(part, 3), "speedup": round(whole / part, 3)}
    return figures


def weights(checkpoint: Path) -> dict[str, object]:
    """Bytes of `weights.bin` of a bundle with four sub-networks, and of one with the largest alone."""
    with tempfile.TemporaryDirectory() as folder:
        one, four = (
            build(checkpoint, profile([SubNetwork.parse(name) for name in names]), Path(folder) / "b").weights_bytes
            for names in (["full"], FOUR)
        )
    return {"sub-networks": FOUR, "one_bytes": one, "four_bytes": four, "ratio": round(four / one, 4)}


def profile(parts: Sequence[SubNetwork]) -> ResourceProfile:
    """A bucket for each part, the last one up to the longest of the lengths; one thread."""
    buckets: list[dict[str, Any]] = [
        {"max_length": LENGTHS[-1] - len(parts) + 1 + index, "subnetwork": part.to_json() or None}
        for index, part in enumerate(parts)
    ]
    return ResourceProfile.model_validate({"name": "bench", "threads": 1, "buckets": buckets})


def quality(checkpoint: Path, data: Path) -> list[dict[str, object]]:
    """The quality of the whole and of the part by length, and the share of it that the part keeps."""
    table = evaluate_file(load_model(checkpoint), data, length_edges=RANGES, subnetworks=(FULL, HALF)).quality
    pairs = [(row, part) for row in table.rows for part in table.rows if _are_whole_and_part(row, part)]
    return [
        {
            "tokens": "all" if whole in table.overall else f"{whole.min_length}..{whole.max_length}",
            "examples": whole.examples,
            f"whole_{whole.metric}": round(whole.value, 4),
            f"part_{whole.metric}": round(part.value, 4),
            "kept": round(part.value / whole.value, 4),
        }
        for whole, part in [*pairs, tuple(table.overall)]
    ]


def _are_whole_and_part(one: QualityRow, other: QualityRow) -> bool:
    return (one.min_length, one.subnetwork, other.subnetwork) == (other.min_length, FULL, HALF)


if __name__ == "__main__":
    main()
