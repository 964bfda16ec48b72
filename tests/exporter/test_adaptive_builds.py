"""Bundles of length-adaptive models: one export, every sub-network and the fusion proven, answers on the device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ctx_export.pipeline import build, verify
from ctx_export.reports import BuildReport
from ctx_export.sources import Source, load_source
from ctx_models.checkpoint import save_model
from ctx_models.subnetwork import LengthPolicy
from ctx_models.subnetwork import SubNetwork as OwnSubNetwork
from ctx_runtime import Runtime
from ctx_runtime.errors import QualityError
from ctx_runtime.golden import verify as verify_golden
from ctx_runtime.resource_profile import ResourceProfile, SubNetwork
from tests.fixtures.adaptive import SEGMENTS, tiny_model

WINDOW = SEGMENTS.length
SMALL = {"layers": 1, "heads": 2, "ffn": 20, "position_resolution": {"kind": "yarn", "factor": 2}}
ROW = {"min_length": 1, "max_length": 8, "metric": "f1", "examples": 3}


def profile(**settings: object) -> ResourceProfile:
    buckets = [
        {"max_length": 4, "subnetwork": SMALL},
        {"max_length": 8, "subnetwork": {"layers": 1}},
        {"max_length": WINDOW},
    ]
    return ResourceProfile.model_validate({"name": "p", "buckets": buckets, "overflow": {"overlap": 2}} | settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tagger"
    policy = LengthPolicy(((8, OwnSubNetwork(layers=1)), (WINDOW, OwnSubNetwork())))
    quality = [ROW | {"subnetwork": {"layers": 1}, "value": 0.6}, ROW | {"subnetwork": {}, "value": 0.9}]
    save_model(tiny_model(num_layers=2, segment=SEGMENTS), folder, policy=policy, quality=quality)
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def exports() -> list[str]:
    """A line for every torch.export of this module."""
    return []


@pytest.fixture(scope="module")
def built(folder: Path, cache: Path, exports: list[str], tmp_path_factory: pytest.TempPathFactory) -> BuildReport:
    original = torch.export.export

    def counted(module: torch.nn.Module, *args: object, **options: object) -> object:
        exports.append(type(module.module).__name__)
        return original(module, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.export, "export", counted)
        return build(folder, profile(), tmp_path_factory.mktemp("out") / "b", cache_dir=cache)


@pytest.fixture(scope="module")
def source(folder: Path) -> Source:
    return load_source(folder)


def test_one_export_serves_every_sub_network(built: BuildReport, exports: list[str]) -> None:
    assert exports == ["TaskModel", "_Segment", "_Fuse", "_Finish"]
    assert len({bucket.network for bucket in built.bundle.manifest.buckets}) == 3


def test_every_sub_network_is_proven_at_its_edges(built: BuildReport) -> None:
    assert built.parity.passed and built.parity.unverified == {}
    alone = {(case.bucket, case.length) for case in built.parity.cases if case.batch == 1}
    assert {("ctx-4", 1), ("ctx-4", 4), ("ctx-8", 5), ("ctx-8", 8), ("ctx-16", 9), ("ctx-16", 16)} <= alone
    assert built.parity.worst()["max_abs"] < 1e-4


def test_the_fusion_is_proven_around_its_segments(built: BuildReport) -> None:
    fused = [case.length for case in built.parity.cases if case.bucket == "fusion"]
    assert fused == [WINDOW + 1, 2 * WINDOW - 1, 2 * WINDOW, 2 * WINDOW + 1, 5 * WINDOW]


def test_the_manifest_tells_what_was_built(built: BuildReport) -> None:
    manifest = built.bundle.manifest
    assert [bucket.network for bucket in manifest.buckets] == ["fp32-l1-h2-f20-yarn2", "fp32-l1", "fp32"]
    assert [(record.network, record.value) for record in manifest.quality] == [("l1", 0.6), ("full", 0.9)]
    assert (manifest.source.kind, manifest.overflow.overlap) == ("adaptive", SEGMENTS.overlap)
    assert manifest.fusion is not None and manifest.fusion.golden == "parity/fusion.npz"
    assert built.notes == ("segments overlap by 4 tokens, as the model was made for",)


@pytest.mark.parametrize("length", [1, 4, 5, 8, 9, WINDOW, WINDOW + 1, 2 * WINDOW + 1, 7 * WINDOW + 3])
def test_the_device_answers_as_the_model(built: BuildReport, source: Source, length: int) -> None:
    arrays = source.example(1, [length], seed=length)
    with Runtime.open(built.bundle) as runtime:
        result = runtime.run({"input_ids": arrays["input_ids"]})
    bucket = next(bucket for bucket in built.bundle.manifest.buckets if bucket.name == result.dispatch[0].bucket)
    expected = source.run(arrays, bucket.subnetwork)["logits"]
    np.testing.assert_allclose(result.outputs["logits"], expected, atol=1e-4)


def test_both_proofs_hold_again(built: BuildReport, folder: Path) -> None:
    assert verify_golden(built.bundle).passed
    again = verify(built.bundle.root, folder)
    assert again.passed and {case.bucket for case in again.cases} == {"ctx-4", "ctx-8", "ctx-16", "fusion"}


def test_a_floor_of_quality_takes_more_of_the_network(built: BuildReport) -> None:
    with Runtime.open(built.bundle, min_quality=0.7) as runtime:
        assert (runtime.explain(5).bucket, runtime.explain(5).quality) == ("ctx-16", 0.9)
        with pytest.raises(QualityError):
            runtime.explain(9)


def test_the_policy_decides_where_the_profile_does_not(folder: Path, cache: Path, tmp_path: Path) -> None:
    plain = ResourceProfile.model_validate(
        {"name": "p", "buckets": [{"max_length": 8}, {"max_length": WINDOW}], "overflow": {"overlap": 2}}
    )
    report = build(folder, plain, tmp_path / "b", cache_dir=cache)
    assert [bucket.network for bucket in report.bundle.manifest.buckets] == ["fp32-l1", "fp32"]
    assert report.notes[0] == "ctx-8 runs l1, by the length policy of the model"
    assert "export" in report.cached


@pytest.mark.parametrize(("precision", "worst"), [("fp16", 0.1), ("int8", 0.5)])
def test_sub_networks_and_fusion_at_lower_precision(
    folder: Path, cache: Path, tmp_path: Path, precision: str, worst: float
) -> None:
    report = build(folder, profile(precision=precision), tmp_path / "b", cache_dir=cache)
    assert report.parity.passed and 0 < report.parity.worst()["max_abs"] < worst
    assert report.bundle.manifest.buckets[0].subnetwork == SubNetwork.model_validate(SMALL)


def test_documents_come_from_the_fusion_alone(tmp_path: Path) -> None:
    model = tiny_model("feature-extraction", num_layers=1, segment=SEGMENTS)
    save_model(model, tmp_path / "retriever")
    plain = ResourceProfile.model_validate(
        {"name": "p", "buckets": [{"max_length": WINDOW}], "overflow": {"overlap": 2}}
    )
    report = build(tmp_path / "retriever", plain, tmp_path / "b")
    manifest = report.bundle.manifest
    assert manifest.fusion is not None and manifest.fusion.finish is None
    assert (manifest.outputs[0].fusion, manifest.outputs[0].normalized) == ("learned", True)
    source = load_source(tmp_path / "retriever")
    arrays = source.example(1, [3 * WINDOW])
    with Runtime.open(report.bundle) as runtime:
        found = runtime.run({"input_ids": arrays["input_ids"]}).outputs["sentence_embedding"]
    np.testing.assert_allclose(found, source.run(arrays)["sentence_embedding"], atol=1e-5)
    assert np.linalg.norm(found) == pytest.approx(1, abs=1e-5)
