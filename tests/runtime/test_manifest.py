"""The manifest's own rules, and what it answers."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from ctx_runtime.manifest import Activation, Manifest
from tests.fixtures.bundles import MASK, write_tiny_bundle


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = write_tiny_bundle(tmp_path_factory.mktemp("manifest") / "tiny")
    return json.loads((root / "manifest.json").read_text())


def test_it_survives_json(values: dict[str, Any]) -> None:
    manifest = Manifest.model_validate(values)
    assert manifest.model_dump(mode="json") == values


def test_what_it_answers(values: dict[str, Any]) -> None:
    manifest = Manifest.model_validate(values)
    assert (manifest.max_length, manifest.mask) == (48, MASK)
    assert [spec.length_axis for spec in (*manifest.inputs, *manifest.outputs)] == [1, 1, 1, None]
    assert Manifest.model_validate(values | {"inputs": values["inputs"][:1]}).mask is None


def test_engines_are_found_by_backend_and_bucket(values: dict[str, Any]) -> None:
    engine = {
        "backend": "tensorrt-rtx", "targets": ["sm89"], "file": "e", "library_version": "1", "network": "fp32",
        "optimization_profiles": {"ctx-16": 0},
    }  # fmt: skip
    manifest = Manifest.model_validate(values | {"engines": [engine]})
    assert [found.file for found in manifest.engines_for("tensorrt-rtx", "ctx-16")] == ["e"]
    assert manifest.engines_for("tensorrt-rtx", "ctx-48") == manifest.engines_for("tensorrt", "ctx-16") == ()


def with_spec(values: dict[str, Any], kind: str, index: int, **fields: object) -> dict[str, Any]:
    specs = [dict(spec) for spec in values[kind]]
    specs[index].update(fields)
    return values | {kind: specs}


@pytest.mark.parametrize(
    ("kind", "index", "fields", "message"),
    [
        ("inputs", 1, {"name": "input_ids"}, "two inputs have the same name"),
        ("outputs", 1, {"name": "hidden"}, "two outputs have the same name"),
        ("inputs", 0, {"shape": ["length", "batch"]}, "expected a shape"),
        ("outputs", 0, {"shape": ["batch", "length", "length"]}, "expected a shape"),
        ("outputs", 0, {"shape": ["batch", "batch"]}, "expected a shape"),
        ("inputs", 0, {"role": "mask"}, "more than one input has the role 'mask'"),
        ("inputs", 1, {"role": "tokens"}, "more than one input has the role 'tokens'"),
        ("inputs", 0, {"shape": ["batch", 0]}, "shape"),
        ("inputs", 0, {"name": "a b"}, "pattern"),
        ("inputs", 0, {"name": "input_ids\n"}, "pattern"),
        ("inputs", 0, {"dtype": "float64"}, "dtype"),
        ("inputs", 0, {"pad": "0"}, "pad"),
        ("outputs", 0, {"fusion": "median"}, "fusion"),
    ],
)
def test_impossible_inputs_and_outputs(
    values: dict[str, Any], kind: str, index: int, fields: dict[str, object], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        Manifest.model_validate(with_spec(values, kind, index, **fields))


FUSION = {
    "segment": "segment.onnx", "fuse": "fuse.onnx", "finish": "finish.onnx", "hidden_size": 8, "summaries": 2,
    "prefix": 1, "suffix": 1, "golden": None,
}  # fmt: skip
QUALITY = {
    "min_length": 1, "max_length": 16, "subnetwork": {"layers": 2}, "metric": "f1", "value": 0.9, "loss": None,
    "examples": 10, "latency_ms": None,
}  # fmt: skip


@pytest.fixture
def fused(values: dict[str, Any]) -> dict[str, Any]:
    """The tiny manifest with a fusion."""
    states, pooled = values["outputs"]
    return values | {"fusion": FUSION, "outputs": [states | {"name": "states"}, pooled | {"fusion": "learned"}]}


def test_a_fusion_names_the_states_between_its_graphs(fused: dict[str, Any]) -> None:
    fusion = Manifest.model_validate(fused).fusion
    assert fusion is not None
    assert fusion.state("hidden").shape == ("batch", "length", 8)
    assert fusion.state("summary").shape == fusion.state("context").shape == ("batch", 2, 8)
    assert fusion.state("summaries").shape == fusion.state("contexts").shape == ("batch", "length", 2, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(fusion=None), "pooled is learned, but the bundle has no graphs of a fusion"),
        (lambda m: m["outputs"][0].update(fusion="learned"), "with a length can't be learned"),
        (lambda m: m["outputs"][1].update(fusion="mean"), "every output without a length is learned"),
        (lambda m: m["fusion"].update(finish=None), "exactly if there are any"),
        (lambda m: m["outputs"].pop(0), "exactly if there are any"),
        (lambda m: m["outputs"][1].update(name="summary"), "'summary' is what the graphs of the fusion call"),
        (lambda m: m["inputs"][0].update(name="hidden"), "'hidden' is what the graphs of the fusion call"),
        (lambda m: m["fusion"].update(prefix=43), "leave no room beside 44 special tokens and an overlap of 4"),
        (lambda m: m.update(min_quality=0.5), "min_quality needs a table of quality"),
        (lambda m: m.update(quality=[QUALITY | {"min_length": 17}]), "expected min_length <= max_length, got 17, 16"),
        (lambda m: m["overflow"].update(fusion="learned"), "overflow.fusion"),
    ],
)
def test_impossible_fusions_and_qualities(fused: dict[str, Any], change: Callable[[Any], object], message: str) -> None:
    changed = copy.deepcopy(fused)
    change(changed)
    with pytest.raises(ValidationError, match=message):
        Manifest.model_validate(changed)


def test_quality_is_of_a_sub_network_as_buckets_name_it(values: dict[str, Any]) -> None:
    buckets = [bucket | {"subnetwork": {"layers": 2}} for bucket in values["buckets"]]
    manifest = Manifest.model_validate(values | {"buckets": buckets, "quality": [QUALITY], "min_quality": 0.5})
    assert manifest.quality[0].subnetwork == manifest.buckets[0].subnetwork


def test_an_input_has_a_length(values: dict[str, Any]) -> None:
    inputs = [spec | {"shape": ["batch", 4]} for spec in values["inputs"]]
    with pytest.raises(ValidationError, match="no input has a length axis"):
        Manifest.model_validate(values | {"inputs": inputs})


@pytest.mark.parametrize(("framing", "fits"), [(43, True), (44, False)])
def test_a_segment_has_room_for_its_own_tokens(values: dict[str, Any], framing: int, fits: bool) -> None:
    changed = values | {"special_tokens": {"prefix": list(range(framing)), "suffix": []}}
    if fits:
        Manifest.model_validate(changed)
    else:
        with pytest.raises(ValidationError, match="leave no room beside 44 special tokens and an overlap of 4"):
            Manifest.model_validate(changed)
    Manifest.model_validate(changed | {"overflow": {"policy": "truncate", "overlap": 4, "fusion": "mean"}})


def test_activation_grows_with_pairs_of_tokens() -> None:
    assert Activation(per_token=10, per_token_pair=2).bytes_for(3, 100) == 3 * (10 * 100 + 2 * 100 * 100)
