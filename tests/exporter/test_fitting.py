"""What a resource profile comes to for a model, and the profiles that a model can't serve."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from ctx_export.fitting import fit_profile
from ctx_export.sources import Source, load_source
from ctx_models.checkpoint import save_model
from ctx_models.subnetwork import LengthPolicy
from ctx_models.subnetwork import SubNetwork as OwnSubNetwork
from ctx_runtime.errors import BuildError
from ctx_runtime.manifest import QualityRecord
from ctx_runtime.resource_profile import ResourceProfile, SubNetwork
from tests.fixtures.adaptive import LAYERS, SEGMENTS, tiny_model

POLICY = LengthPolicy(((8, OwnSubNetwork(layers=1)), (16, OwnSubNetwork(heads=2)), (64, OwnSubNetwork())))


def profile(*ends: int, overlap: int = 2, **settings: Any) -> ResourceProfile:
    buckets = [{"max_length": end} for end in ends]
    return ResourceProfile.model_validate(
        {"name": "p", "buckets": buckets, "overflow": {"overlap": overlap}} | settings
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    folder = tmp_path_factory.mktemp("models") / "model"
    save_model(tiny_model(), folder, policy=POLICY)
    return load_source(folder)


@pytest.fixture(scope="module")
def segmented(tmp_path_factory: pytest.TempPathFactory) -> Source:
    folder = tmp_path_factory.mktemp("models") / "model"
    save_model(tiny_model("feature-extraction", segment=SEGMENTS), folder)
    return load_source(folder)


def test_the_policy_of_the_model_decides_where_the_profile_does_not(source: Source) -> None:
    fitted = fit_profile(source, profile(8, 12, 20, 64))
    assert [bucket.network for bucket in fitted.buckets] == ["fp32-l1", "fp32-h2", "fp32", "fp32"]
    assert fitted.notes == (
        "ctx-8 runs l1, by the length policy of the model",
        "ctx-12 runs h2, by the length policy of the model",
        "ctx-20 runs the whole network, by the length policy of the model",
        "ctx-64 runs the whole network, by the length policy of the model",
    )


def test_a_profile_with_any_sub_network_decides_itself(source: Source) -> None:
    own = profile(8, 64, buckets=[{"max_length": 8, "subnetwork": {"layers": LAYERS}}, {"max_length": 64}])
    fitted = fit_profile(source, own)
    assert [bucket.network for bucket in fitted.buckets] == ["fp32", "fp32"]
    assert fitted.notes == ()


def test_a_policy_that_ends_too_soon(source: Source) -> None:
    short = dataclasses.replace(source, steps=source.steps[:1])
    with pytest.raises(BuildError, match="bucket ctx-16 of profile p: the length policy of model ends at 8 tokens"):
        fit_profile(short, profile(8, 16))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"subnetwork": {"layers": 4}}, "bucket ctx-8 of profile p: model has no sub-network l4: layers is 1..3"),
        ({"subnetwork": {"heads": 5}}, "heads is 1..4 in this model, not 5"),
        ({"subnetwork": {"ffn": 64}}, "ffn is 1..40 in this model, not 64"),
        ({"min_quality": 0.5}, "profile p asks for a quality of 0.5; model has no table of it"),
        ({"time_budget_ms": 5}, "bucket ctx-8 of profile p has a time budget, and model has no latency of l1"),
    ],
)
def test_what_the_model_does_not_have(source: Source, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BuildError, match=message):
        fit_profile(source, profile(8, 64, **settings))


def test_a_model_without_sub_networks_is_asked_for_none(source: Source) -> None:
    plain = Source(**{field.name: getattr(source, field.name) for field in dataclasses.fields(Source)} | {"steps": ()})
    assert fit_profile(plain, profile(8, 64)).buckets[0].subnetwork is None
    with pytest.raises(BuildError, match="model has no sub-networks"):
        fit_profile(plain, profile(8, 64, subnetwork={"layers": 1}))


def test_quality_and_latency_that_are_known(source: Source) -> None:
    known = QualityRecord(
        min_length=1, max_length=8, subnetwork=SubNetwork(layers=1), metric="f1", value=0.5, loss=None, examples=1,
        latency_ms=2.0,
    )  # fmt: skip
    rated = dataclasses.replace(source, quality=(known,))
    fitted = fit_profile(rated, profile(8, min_quality=0.5, time_budget_ms=5))
    assert fitted.buckets[0].time_budget_ms == 5


def test_buckets_longer_than_the_model(source: Source) -> None:
    with pytest.raises(BuildError, match="bucket ctx-65 of profile p is longer than the 64 positions of model"):
        fit_profile(source, profile(8, 65))


def test_a_fusion_brings_its_overlap_and_learns_the_pooled_output(segmented: Source) -> None:
    fitted = fit_profile(segmented, profile(8, 16))
    assert (fitted.fuses, fitted.overflow.overlap, fitted.outputs[0].fusion) == (True, SEGMENTS.overlap, "learned")
    assert fitted.notes == ("segments overlap by 4 tokens, as the model was made for",)


def test_a_fusion_needs_buckets_as_long_as_its_segments(segmented: Source) -> None:
    with pytest.raises(BuildError, match="fuses segments of 16 tokens, and the longest bucket of profile p takes 12"):
        fit_profile(segmented, profile(8, 12))


def test_other_policies_for_long_inputs_need_no_fusion(segmented: Source) -> None:
    fitted = fit_profile(segmented, profile(8, 12, overflow={"policy": "truncate", "overlap": 2, "fusion": "max"}))
    assert (fitted.fuses, fitted.overflow.overlap, fitted.outputs[0].fusion) == (False, 2, "max")


def test_token_outputs_are_joined_whatever_the_profile_says(source: Source) -> None:
    fitted = fit_profile(source, profile(8, 64, overflow={"overlap": 2, "fusion": "max"}))
    assert [spec.fusion for spec in fitted.outputs] == ["concat"]
