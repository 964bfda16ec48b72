"""Random damage, hashes up to date: a bundle is refused, or it is as good as before. Nothing ends the process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import get_args

import numpy as np

from ctx_runtime.backends.onnxruntime import OrtSession
from ctx_runtime.bundle import Bundle, canonical_json
from ctx_runtime.errors import BundleError, BundleRefusal
from ctx_runtime.golden_syntax import check_golden
from ctx_runtime.manifest_file import parse_manifest
from tests.fixtures.bundles import expected, write_tiny_bundle
from tests.fixtures.mutations import mutate_bytes, mutate_manifest, seeded

MANIFESTS, GRAPHS, GOLDEN = 500, 500, 200
IDS = np.array([[5, 6, 7, 9, 11], [3, 4, 8, 0, 0]])
FEEDS = {"input_ids": IDS, "attention_mask": (IDS > 0).astype(np.int64)}


def test_damaged_manifests_are_refused_or_give_the_same_answers(tmp_path: Path) -> None:
    root = write_tiny_bundle(tmp_path / "tiny")
    text = (root / "manifest.json").read_text()
    outcomes: Counter[str] = Counter()
    for seed in range(MANIFESTS):
        (root / "manifest.json").write_bytes(mutate_manifest(seeded(seed), text))
        try:
            bundle = Bundle.open(root)
        except BundleError as error:
            assert str(error).isprintable(), seed
            outcomes[error.code] += 1
            continue
        outcomes["opened"] += 1
        assert parse_manifest(canonical_json(bundle.manifest)) == bundle.manifest, seed
        assert_same_answers(bundle)
    assert outcomes["opened"] >= 10
    assert len(outcomes) >= 9, outcomes


def assert_same_answers(bundle: Bundle) -> None:
    bucket = bundle.manifest.buckets[0]
    for graph, feeds in ((bucket.graph, FEEDS), (bucket.unmasked_graph, {"input_ids": IDS})):
        if graph is not None:
            outputs = OrtSession(bundle.path(graph), threads=1).run(feeds, bucket=bucket.name)
            for name, answer in expected(IDS, feeds.get("attention_mask")).items():
                np.testing.assert_allclose(outputs[name], answer, atol=1e-6)


def test_damaged_graphs_are_refused_and_none_ends_the_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fixtures.fuzz_graphs", str(tmp_path), "0", str(GRAPHS)]
    child = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in child.stdout.splitlines()]
    assert child.returncode == 0, f"{lines[-1:]}: {child.stderr[-2000:]}"
    outcomes = Counter(line["outcome"] for line in lines if "outcome" in line)
    assert outcomes.total() == GRAPHS
    assert outcomes["ran"] >= 5, outcomes
    assert len(set(outcomes) & set(get_args(BundleRefusal))) >= 4, outcomes


def test_damaged_golden_vectors_are_refused_or_still_arrays(tmp_path: Path) -> None:
    root = write_tiny_bundle(tmp_path / "tiny")
    manifest = Bundle.open(root).manifest
    path = root / "parity/ctx-16.npz"
    data = path.read_bytes()
    opened = 0
    for seed in range(GOLDEN):
        path.write_bytes(mutate_bytes(seeded(seed), data))
        try:
            check_golden(path, manifest)
        except BundleError as error:
            assert (error.code, str(error).isprintable()) == ("golden-syntax", True)
            continue
        opened += 1
        with np.load(path, allow_pickle=False) as archive:
            assert all(isinstance(archive[name], np.ndarray) for name in archive.files)
    assert opened
