"""A batch-1 run at 8,192 tokens: a bucket's mask-free graph against what `torch.onnx.export` alone gives.

MiniLM's network, its positions extended to 8,192 with random rows. Each run is a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from measure import minilm, peak_anonymous, report

LENGTH, ROUNDS = 8192, 3


def main() -> None:
    if len(sys.argv) > 1:
        return _measure(sys.argv[1], Path(sys.argv[2]))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _child("prepare", folder)
        runs: dict[str, list[dict[str, float]]] = {"ours": [], "torch.onnx.export": []}
        for _ in range(ROUNDS):
            for contender, figures in runs.items():
                figures.append(_child(contender, folder))
    best = {
        contender: {key: min(figure[key] for figure in figures) for key in ("seconds", "peak_mb")}
        for contender, figures in runs.items()
    }
    ratio = {key: round(best["ours"][key] / best["torch.onnx.export"][key], 3) for key in ("seconds", "peak_mb")}
    report("long_context", {"length": LENGTH, "best": best, "ratio": ratio, "goal": {"seconds": 1, "peak_mb": 0.15}})


def _child(what: str, folder: Path) -> dict[str, float]:
    line = [sys.executable, __file__, what, str(folder)]
    answer: dict[str, float] = json.loads(subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return answer


def _prepare(folder: Path) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    from ctx_export.pipeline import build

    torch.manual_seed(0)
    model = AutoModel.from_pretrained(minilm()).eval()
    old = model.embeddings.position_embeddings.weight.data
    rows = torch.cat([old, torch.randn(LENGTH - len(old), old.shape[1]) * old.std()])
    model.embeddings.position_embeddings = torch.nn.Embedding.from_pretrained(rows)
    model.embeddings.register_buffer("position_ids", torch.arange(LENGTH)[None], persistent=False)
    model.embeddings.register_buffer("token_type_ids", torch.zeros(1, LENGTH, dtype=torch.long), persistent=False)
    model.config.max_position_embeddings = LENGTH
    model.save_pretrained(folder / "model")
    AutoTokenizer.from_pretrained(minilm()).save_pretrained(folder / "model")
    build(folder / "model", "edge-cpu-long", folder / "bundle")
    tokens = torch.randint(1000, 20000, (2, 24))
    batch, length = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("length", min=1, max=LENGTH)
    feeds = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "token_type_ids": torch.zeros_like(tokens)}
    torch.onnx.export(
        model, (), folder / "peer.onnx", kwargs=feeds, dynamo=True, verbose=False,
        dynamic_shapes={name: {0: batch, 1: length} for name in feeds},
    )  # fmt: skip


def _measure(what: str, folder: Path) -> None:
    """Run one contender once after a short warm-up, and print its seconds and its peak of anonymous memory."""
    if what == "prepare":
        _prepare(folder)
        sys.stdout.write("{}")
        return
    tokens = np.random.default_rng(0).integers(1000, 20000, (1, LENGTH))
    run = _open_ours(folder) if what == "ours" else _open_peer(folder)
    run(tokens[:, :16])
    with peak_anonymous() as peak:
        started = time.perf_counter()
        run(tokens)
        seconds = time.perf_counter() - started
    sys.stdout.write(json.dumps({"seconds": round(seconds, 2), "peak_mb": round(peak[0] / 1e6, 1)}))


def _open_ours(folder: Path):
    from ctx_runtime import Runtime

    runtime = Runtime.open(folder / "bundle")
    return lambda tokens: runtime.run({"input_ids": tokens})


def _open_peer(folder: Path):
    import onnxruntime as ort

    session = ort.InferenceSession(folder / "peer.onnx", providers=["CPUExecutionProvider"])
    return lambda tokens: session.run(
        None,
        {
            "input_ids": tokens,
            "attention_mask": np.ones_like(tokens),
            "token_type_ids": np.zeros_like(tokens),
        },
    )


if __name__ == "__main__":
    main()
