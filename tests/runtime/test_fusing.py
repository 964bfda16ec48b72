"""Rows longer than every bucket through a model's own fusion: the answers, what is told of them, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ctx_runtime.errors import QualityError, TooLongError
from ctx_runtime.golden import verify
from ctx_runtime.manifest import QualityRecord
from ctx_runtime.resource_profile import Overflow
from ctx_runtime.runtime import Runtime
from tests.fixtures.bundles import VOCABULARY, edit_manifest
from tests.fixtures.fused import expected_fused, write_fused_bundle

WINDOW = 48


def ids(length: int) -> np.ndarray:
    return np.random.default_rng(length).integers(3, VOCABULARY, length)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CTX_RUNTIME_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_fused_bundle(tmp_path / "fused")


def check(outputs: dict[str, np.ndarray], tokens: np.ndarray) -> None:
    for name, expected in expected_fused(tokens, window=WINDOW).items():
        np.testing.assert_allclose(outputs[name], expected, atol=1e-5)


@pytest.mark.parametrize("length", [16, 17, 48, 49, 95, 96, 97, 240])
def test_every_length_gives_the_answers_of_the_model(root: Path, length: int) -> None:
    with Runtime.open(root) as runtime:
        result = runtime.run({"input_ids": ids(length)})
    check(result.outputs, ids(length))


def test_long_and_short_rows_keep_their_order(root: Path) -> None:
    lengths = [50, 3, 97, 48, 20]
    with Runtime.open(root) as runtime:
        results = runtime.run([{"input_ids": ids(length)} for length in lengths])
        stats = runtime.stats().buckets["ctx-48"]
    for length, result in zip(lengths, results, strict=True):
        check(result.outputs, ids(length))
    assert [row.segments for result in results for row in result.dispatch] == [2, 1, 3, 1, 1]
    assert results[0].dispatch[0].reason == "50 tokens in 2 segments of 48, fused by the model"
    assert (stats.fused, stats.tokens) == (2, 5 * WINDOW + 48 + 20)


def test_a_batch_of_long_rows_has_a_batch_axis(root: Path) -> None:
    rows = np.zeros((2, 100), np.int64)
    rows[0], rows[1, :60] = ids(100), ids(60)
    mask = np.ones_like(rows)
    mask[1, 60:] = 0
    with Runtime.open(root) as runtime:
        result = runtime.run({"input_ids": rows, "attention_mask": mask})
    check({"states": result.outputs["states"][0], "pooled": result.outputs["pooled"][0]}, ids(100))
    check({"states": result.outputs["states"][1, :60], "pooled": result.outputs["pooled"][1]}, ids(60))
    assert not result.outputs["states"][1, 60:].any()


def test_explain_tells_the_segments(root: Path) -> None:
    with Runtime.open(root) as runtime:
        explanation = runtime.explain(97)
        short = runtime.explain(48)
    assert (explanation.bucket, explanation.segments, explanation.backend) == ("ctx-48", 3, "onnxruntime-cpu")
    assert explanation.reason == "97 tokens in 3 segments of 48, fused by the model"
    assert (short.segments, short.reason) == (1, "48 tokens fit 17..48")


def test_golden_rows_in_segments_are_verified(root: Path) -> None:
    report = verify(root)
    assert report.passed
    assert [case.lengths for case in report.cases if case.bucket == "fusion"] == [(97,)]


def test_a_fusion_without_golden_vectors_is_unverified(root: Path) -> None:
    edit_manifest(root, lambda manifest: manifest["fusion"].update(golden=None))
    assert verify(root).unverified == {"fusion": "the bundle carries no golden vectors for it"}


def test_only_the_policy_segment_fuses(tmp_path: Path) -> None:
    root = write_fused_bundle(tmp_path / "strict", overflow=Overflow(policy="error"))
    with Runtime.open(root) as runtime, pytest.raises(TooLongError):
        runtime.run({"input_ids": ids(49)})


def test_a_backend_without_the_fusion_falls_to_the_next(root: Path) -> None:
    with (
        Runtime.open(root, backends=["tensorrt-rtx", "onnxruntime-cpu"]) as runtime,
        pytest.warns(RuntimeWarning, match="tensorrt-rtx runs no graphs of a fusion"),
    ):
        check(runtime.run({"input_ids": ids(97)}).outputs, ids(97))


def record(low: int, high: int, value: float) -> QualityRecord:
    return QualityRecord(
        min_length=low, max_length=high, subnetwork=None, metric="f1", value=value, loss=0.1, examples=5,
        latency_ms=None,
    )  # fmt: skip


def test_a_floor_of_quality(tmp_path: Path) -> None:
    quality = (record(1, 48, 0.9), record(49, 96, 0.7))
    root = write_fused_bundle(tmp_path / "rated", quality=quality, min_quality=0.6)
    with Runtime.open(root) as runtime:
        explanation = runtime.explain(96)
        assert (explanation.metric, explanation.quality, explanation.network) == ("f1", 0.7, "fp32")
        check(runtime.run({"input_ids": ids(96)}).outputs, ids(96))
        with pytest.raises(QualityError, match=r"97 tokens run nowhere with a quality of 0.6: the best is not known"):
            runtime.run({"input_ids": ids(97)})
    with Runtime.open(root, min_quality=0.8) as runtime:
        check(runtime.run({"input_ids": ids(48)}).outputs, ids(48))
        with pytest.raises(QualityError, match=r"the best is f1 0.7 in ctx-48"):
            runtime.explain(96)


def test_a_floor_needs_a_table(root: Path) -> None:
    with pytest.raises(QualityError, match="the bundle has no table of quality"):
        Runtime.open(root, min_quality=0.5)
