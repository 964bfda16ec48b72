"""The conformance cases, run by Python; `tests/cpp/test_conformance.cpp` runs the same files. Each case is data."""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path

import numpy as np
import pytest

from ctx_runtime import errors
from ctx_runtime.batching import Job, form_batches
from ctx_runtime.bundle import Bundle
from ctx_runtime.dispatch import Dispatcher
from ctx_runtime.generation.sampling import Sampler
from ctx_runtime.generation.settings import Settings
from ctx_runtime.golden import verify
from ctx_runtime.manifest import Manifest, OutputSpec
from ctx_runtime.padding import Row, RowLayout
from ctx_runtime.runtime import Runtime
from ctx_runtime.segmenting import fuse, plan_segments
from tests.cross.patching import make_bundle, patched_manifest

FOLDER = Path(__file__).parent


def cases(kind: str):
    loaded = json.loads((FOLDER / f"{kind}.json").read_text(encoding="utf-8"))
    return pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in loaded])


def manifest_of(case: dict) -> Manifest:
    return Manifest.model_validate(patched_manifest(case.get("manifest", [])))


def array(value: dict) -> np.ndarray:
    return np.array(value["values"], value["dtype"]).reshape(value["shape"])


@cases("hash")
def test_hash(case: dict) -> None:
    assert hashlib.sha256(case["text"].encode()).hexdigest() == case["sha256"]


@cases("parse")
def test_parse(tmp_path: Path, case: dict) -> None:
    bundle = Bundle.open(make_bundle(tmp_path / "bundle", case))
    assert bundle.manifest.max_length == case["max_length"]
    assert [bucket.network for bucket in bundle.manifest.buckets] == case["networks"]


@cases("refuse")
def test_refuse(tmp_path: Path, case: dict) -> None:
    with pytest.raises(errors.BundleError) as caught:
        Bundle.open(make_bundle(tmp_path / "bundle", case))
    assert caught.value.code == case["code"], str(caught.value)


@cases("dispatch")
def test_dispatch(case: dict) -> None:
    bundle = Bundle(FOLDER / "tiny", manifest_of(case), "")
    floor = bundle.manifest.min_quality
    dispatcher = Dispatcher(bundle, backends=None, share_weights="off", session_budget=None, min_quality=floor)
    if "error" in case:
        with pytest.raises(getattr(errors, case["error"])):
            dispatcher.choose(case["length"], batch=case["batch"])
        return
    chosen = dispatcher.choose(case["length"], batch=case["batch"])
    assert chosen is not None
    assert (chosen[0].name, chosen[1]) == (case["bucket"], case["reason"])


@cases("batches")
def test_batches(case: dict) -> None:
    buckets = manifest_of(case).buckets
    jobs = [
        Job(Row({}, length), next(b for b in buckets if length <= b.max_length), False, "")
        for length in case["lengths"]
    ]
    assert form_batches(jobs, may_pad=case.get("may_pad", True)) == case["batches"]


@cases("padding")
def test_padding(case: dict) -> None:
    manifest = manifest_of(case)
    layout = RowLayout(manifest.inputs, manifest.outputs)
    inputs = {name: array(value) for name, value in case["inputs"].items()}
    if "error" in case:
        with pytest.raises(getattr(errors, case["error"])):
            layout.read(inputs)
        return
    rows, batched = layout.read(inputs)
    assert ([row.length for row in rows], batched) == (case["lengths"], case["batched"])
    feeds = layout.stack(rows, frozenset(case["feeds"]))
    assert feeds.keys() == case["feeds"].keys()
    for name, value in case["feeds"].items():
        assert feeds[name].dtype == value["dtype"]
        np.testing.assert_array_equal(feeds[name], array(value))


@cases("segmentation")
def test_segmentation(case: dict) -> None:
    keys = ("window", "overlap", "prefix", "suffix")
    segments = plan_segments(case["length"], **{key: case[key] for key in keys}).segments
    assert [segment.start for segment in segments] == case["starts"]
    assert [list(segment.owned) for segment in segments] == case["owned"]
    assert segments[0].indices.tolist() == case["first"]
    assert segments[-1].indices.tolist() == case["last"]


@cases("fusion")
def test_fusion(case: dict) -> None:
    plan = dict(case["plan"])
    fused = fuse(
        plan_segments(plan.pop("length"), **plan),
        [array(window) for window in case["windows"]],
        OutputSpec.model_validate(case["output"]),
    )
    expected = array(case["expected"])
    assert (fused.dtype, fused.shape) == (expected.dtype, expected.shape)
    np.testing.assert_allclose(fused, expected, rtol=1e-6)


@cases("run")
def test_run(tmp_path: Path, case: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CTX_RUNTIME_CACHE", str(tmp_path / "cache"))
    root = make_bundle(tmp_path / "bundle", case)
    inputs = {name: array(value) for name, value in case["inputs"].items()}
    with warnings.catch_warnings(), Runtime.open(root) as runtime:
        warnings.simplefilter("ignore", RuntimeWarning)  # a fallback is told
        if "error" in case:
            with pytest.raises(errors.CtxError) as caught:
                runtime.run(inputs)
            assert type(caught.value).__name__ == case["error"]
            return
        result = runtime.run(inputs)
    assert [
        {key: getattr(row, key) for key in expected}
        for row, expected in zip(result.dispatch, case["dispatch"], strict=True)
    ] == case["dispatch"]
    for name, expected in case["outputs"].items():
        if isinstance(expected, list):
            assert list(result.outputs[name].shape) == expected
        else:
            np.testing.assert_allclose(result.outputs[name], array(expected), rtol=0, atol=1e-6, strict=True)


@cases("verify")
def test_verify(tmp_path: Path, case: dict) -> None:
    report = verify(Bundle.open(make_bundle(tmp_path / "bundle", case)))
    assert report.passed
    assert [[one.bucket, max(one.lengths), one.top1] for one in report.cases] == case["cases"]


@cases("random")
def test_random(case: dict) -> None:
    assert np.random.default_rng(case["seed"]).random(len(case["numbers"])).tolist() == case["numbers"]


@cases("sampling")
def test_sampling(case: dict) -> None:
    sampler = Sampler(Settings(**case["settings"]))
    logits = np.array(case["logits"], np.float32)
    assert [sampler.pick(logits, case["seen"]) for _ in case["tokens"]] == case["tokens"]


@cases("generate")
def test_generate(tmp_path: Path, case: dict) -> None:
    with Runtime.open(make_bundle(tmp_path / "bundle", case)) as runtime:
        for call in case["calls"]:
            check_call(runtime, call)


def check_call(runtime: Runtime, call: dict) -> None:
    """One prompt of a case; those before it have left their cache."""
    if "error" in call:
        with pytest.raises(getattr(errors, call["error"])) as caught:
            runtime.generate(call["ids"], **call["settings"])
        assert call["message"] in str(caught.value)
        assert caught.value.hint == call.get("hint", caught.value.hint)
        return
    generation = runtime.generate(call["ids"], **call["settings"])
    assert (generation.tokens, generation.finish_reason) == (call["tokens"], call["finish_reason"])
    ran = generation.dispatch
    assert {key: getattr(ran, key) for key in call["dispatch"]} | {"buckets": list(ran.buckets)} == call["dispatch"]
    for token, (logprob, top) in zip(generation, call.get("logprobs", ()), strict="logprobs" in call):
        assert token.logprob == pytest.approx(logprob, abs=1e-4)
        assert [likely for likely, _ in token.top] == top
