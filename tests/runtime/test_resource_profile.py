"""Resource profiles: the smallest one, what a bucket overrides, and what is impossible."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from ctx_runtime.resource_profile import BatchRange, BucketPlan, ResourceProfile, RopeScaling, SubNetwork, parse_bytes

SMALLEST: dict[str, Any] = {"name": "x", "buckets": [{"max_length": 16}, {"max_length": 48}]}


def plans(**fields: Any) -> tuple[BucketPlan, ...]:
    return ResourceProfile.model_validate(SMALLEST | fields).resolve()


def test_the_smallest_profile_has_a_default_for_everything() -> None:
    profile = ResourceProfile.model_validate(SMALLEST)
    short, long = profile.resolve()
    assert short == BucketPlan(
        min_length=1, max_length=16, opt_length=16, batch=BatchRange(min=1, opt=1, max=8), precision="fp32", threads=0,
        memory_budget=None, backends=("onnxruntime-cpu",), subnetwork=None,
    )  # fmt: skip
    assert (long.min_length, long.max_length, long.opt_length) == (17, 48, 48)
    assert (profile.overflow.policy, profile.share_weights, profile.session_budget) == ("segment", "mmap", None)


def test_a_bucket_overrides_the_profile_and_the_profile_the_default() -> None:
    own = {
        "max_length": 48, "batch": {"max": 2}, "precision": "int8", "threads": 0, "memory_budget": "1 GiB",
        "backends": ["tensorrt"], "subnetwork": {"layers": 2}, "time_budget_ms": 2.5,
    }  # fmt: skip
    short, long = plans(
        batch={"opt": 2, "max": 4}, precision="fp16", threads=3, memory_budget=1000, time_budget_ms=10.0,
        backends=["onnxruntime-cuda", "onnxruntime-cpu"], subnetwork={"heads": 1},
        buckets=[{"max_length": 16}, own],
    )  # fmt: skip
    assert (short.batch, short.precision, short.threads) == (BatchRange(opt=2, max=4), "fp16", 3)
    assert (short.memory_budget, short.backends) == (1000, ("onnxruntime-cuda", "onnxruntime-cpu"))
    assert (long.batch, long.precision, long.threads) == (BatchRange(max=2), "int8", 0)
    assert (long.memory_budget, long.backends) == (1 << 30, ("tensorrt",))
    assert (short.time_budget_ms, long.time_budget_ms) == (10, 2.5)
    assert (short.subnetwork, long.subnetwork) == (SubNetwork(heads=1), SubNetwork(layers=2))


@pytest.mark.parametrize(
    ("fields", "network"),
    [
        ({}, "fp32"),
        ({"precision": "int8"}, "int8"),
        ({"subnetwork": {"layers": 2, "heads": 4, "ffn": 64}}, "fp32-l2-h4-f64"),
        ({"subnetwork": {"position_resolution": {"kind": "yarn", "factor": 2}}}, "fp32-yarn2"),
    ],
)
def test_buckets_of_one_network_have_its_name(fields: dict[str, Any], network: str) -> None:
    assert {plan.network for plan in plans(**fields)} == {network}


@pytest.mark.parametrize(
    "fields",
    [
        {"surprise": 1},
        {"name": ""},
        {"name": "../x"},
        {"buckets": []},
        {"buckets": [{}]},
        {"buckets": [{"max_length": 0}]},
        {"buckets": [{"max_length": "16"}]},
        {"buckets": [{"max_length": True}]},
        {"buckets": [{"max_length": 16}, {"max_length": 16}]},
        {"buckets": [{"max_length": 48}, {"max_length": 16}]},
        {"buckets": [{"max_length": 16}, {"min_length": 20, "max_length": 48}]},
        {"buckets": [{"max_length": 16, "opt_length": 17}]},
        {"buckets": [{"max_length": 16}, {"max_length": 48, "opt_length": 8}]},
        {"buckets": [{"max_length": 16, "surprise": 1}]},
        {"batch": {"min": 2, "opt": 1}},
        {"batch": {"max": 0}},
        {"precision": "fp64"},
        {"threads": -1},
        {"memory_budget": 0},
        {"memory_budget": "lots"},
        {"memory_budget": "inf MB"},
        {"backends": []},
        {"backends": ["tpu"]},
        {"subnetwork": {"layers": 0}},
        {"subnetwork": {"position_resolution": {"kind": "ntk", "factor": 0}}},
        {"subnetwork": {"position_resolution": {"kind": "ntk", "factor": 0.5}}},
        {"subnetwork": {"position_resolution": {"kind": "llama3", "factor": 2}}},
        {"subnetwork": {"rope_scaling": {"kind": "ntk", "factor": 2}}},
        {"time_budget_ms": 0},
        {"min_quality": "good"},
        {"overflow": {"fusion": "learned"}},
        {"overflow": {"fusion": "concat"}},
        {"overflow": {"overlap": 48}},
        {"overflow": {"policy": "guess"}},
        {"share_weights": "yes"},
    ],
    ids=str,
)
def test_impossible(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ResourceProfile.model_validate(SMALLEST | fields)


@pytest.mark.parametrize(
    ("text", "value"),
    [("512 MiB", 512 << 20), ("1.5GB", 1_500_000_000), ("7 B", 7), (" 2 KiB ", 2048), ("3KB", 3000), (9, 9)],
)
def test_sizes_in_words(text: object, value: int) -> None:
    assert parse_bytes(text) == value


@pytest.mark.parametrize("text", ["", "512", "MiB", "1 TB", "nan MB", "1e400 B"])
def test_what_is_not_a_size(text: str) -> None:
    with pytest.raises(ValueError, match="expected bytes or a size"):
        parse_bytes(text)


def test_a_scaling_factor_may_be_a_whole_number() -> None:
    assert RopeScaling.model_validate({"kind": "linear", "factor": 2}).factor == 2.0
