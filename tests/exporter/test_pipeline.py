import numpy as np
import pytest
import torch

from ctx_export import graphs, parity, pipeline
from ctx_export.pipeline import build, verify
from ctx_runtime import Bundle, Runtime
from ctx_runtime.errors import BuildError, ParityError, SourceError
from ctx_runtime.golden import verify as verify_golden
from ctx_runtime.resource_profile import ResourceProfile
from tests.fixtures.minilm import write_sentence_encoder
from tests.fixtures.models import write_model


def profile(*ends, overlap=2, **settings):
    return ResourceProfile.model_validate(
        {"name": "x", "buckets": [{"max_length": end} for end in ends], "overflow": {"overlap": overlap}, **settings}
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_sentence_encoder(tmp_path_factory.mktemp("models") / "encoder", max_length=64)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def built(model, cache, tmp_path_factory):
    return build(model, profile(16, 48), tmp_path_factory.mktemp("out") / "tiny.bundle", cache_dir=cache)


def test_the_bundle_is_proven_at_every_edge(built):
    assert built.parity.passed and built.parity.unverified == {}
    alone = {
        (case.bucket, case.length) for case in built.parity.cases if case.batch == 1 and case.padded_to == case.length
    }
    assert {("ctx-16", 1), ("ctx-16", 15), ("ctx-16", 16), ("ctx-48", 17), ("ctx-48", 47), ("ctx-48", 48)} <= alone
    assert any(case.form == "masked" and case.batch == 3 for case in built.parity.cases)
    assert built.parity.padding_effect < 1e-5 and built.parity.batch_effect < 1e-5
    assert built.bundle.manifest.padding_invariant


def test_the_json_is_what_scripts_rely_on(built):
    answer = built.to_json()
    assert {"bundle", "buckets", "weights_bytes", "bundle_bytes", "parity", "seconds", "cached", "notes"} == set(answer)
    assert answer["buckets"][0] == {
        "name": "ctx-16",
        "min_length": 1,
        "max_length": 16,
        "precision": "fp32",
        "network": "fp32",
        "graph": "graphs/ctx-16.onnx",
    }
    assert {"export", "specialise", "engines", "parity", "total"} <= set(answer["seconds"])
    assert set(answer["parity"]["worst"]) == {"max_abs", "cosine"} and answer["parity"]["passed"]


@pytest.mark.parametrize("length", [1, 15, 16, 17, 47, 48, 100])
def test_the_runtime_answers_as_pytorch(built, model, length):
    source = pipeline.load_source(model)
    arrays = source.example(1, [length])
    with Runtime.open(built.bundle.root, share_weights="off") as runtime:
        result = runtime.run(arrays)
        if length <= 48:
            for name, expected in source.run(arrays).items():
                np.testing.assert_allclose(result.outputs[name], expected, atol=1e-4)
        else:
            assert result.dispatch[0].segments == 3 and result.outputs["last_hidden_state"].shape == (1, 100, 32)


def test_text_runs_through_the_bundles_tokenizer(built):
    with Runtime.open(built.bundle.root, share_weights="off") as runtime:
        result = runtime.run_text("a sailor goes to the sea")
    assert result.dispatch[0].length == 8
    assert np.linalg.norm(result.outputs["sentence_embedding"]) == pytest.approx(1, abs=1e-5)


def test_golden_vectors_and_the_model_prove_it_again(built, model):
    assert verify_golden(built.bundle.root).passed
    report = verify(built.bundle.root, model)
    assert report.passed and len(report.cases) == len(built.parity.cases)


def test_another_model_does_not_pass(built, model, tmp_path):
    torch.manual_seed(7)
    other = write_sentence_encoder(tmp_path / "other", max_length=64)
    from safetensors.torch import load_file, save_file

    weights = load_file(other / "model.safetensors")
    save_file({name: tensor + 0.05 for name, tensor in weights.items()}, other / "model.safetensors")
    assert not verify(built.bundle.root, other).passed
    classifier = write_model("bert", "text-classification", tmp_path / "classifier")
    with pytest.raises(SourceError):
        verify(built.bundle.root, classifier, task="text-classification")


def test_one_export_serves_any_number_of_buckets(model, tmp_path, monkeypatch):
    calls = []
    export = torch.export.export
    monkeypatch.setattr(torch.export, "export", lambda *args, **kwargs: calls.append(1) or export(*args, **kwargs))
    build(model, profile(4, 8, 16, 48), tmp_path / "b", cache_dir=tmp_path / "cache")
    assert len(calls) == 1


def test_building_again_does_only_what_changed(model, cache, built, tmp_path, monkeypatch):
    monkeypatch.setattr(graphs, "export_graph", lambda *_, **__: pytest.fail("exported again"))
    again = build(model, profile(16, 48), tmp_path / "b", cache_dir=cache)
    assert again.cached == ("export", "parity:ctx-16", "parity:ctx-48")
    assert again.bundle.manifest == built.bundle.manifest
    changed = build(model, profile(16, 40), tmp_path / "b", cache_dir=cache)
    assert changed.cached == ("export", "parity:ctx-16")


def test_more_buckets_cost_almost_no_bytes(built, model, cache, tmp_path):
    four = build(model, profile(8, 16, 32, 48), tmp_path / "four", cache_dir=cache)
    assert four.weights_bytes == built.weights_bytes


def test_answers_out_of_tolerance_are_never_published(model, cache, tmp_path, monkeypatch):
    right = parity.compare
    monkeypatch.setattr(
        parity,
        "compare",
        lambda expected, actual, **rest: right(expected, {k: v + 1 for k, v in actual.items()}, **rest),
    )
    with pytest.raises(ParityError, match="out of tolerance; worst: ctx-24") as caught:
        build(model, profile(24), tmp_path / "b", cache_dir=cache)
    assert caught.value.exit_code == 1 and not (tmp_path / "b").exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (profile(16, 65), "bucket ctx-65 of profile x is longer than the 64 positions"),
        (profile(16, subnetwork={"layers": 1}), "bucket ctx-16 of profile x: encoder has no sub-networks"),
        (profile(16, overlap=14), "leave no room beside 2 special tokens"),
    ],
)
def test_what_the_model_cannot_serve_is_said_before_it_is_exported(model, tmp_path, monkeypatch, asked, message):
    monkeypatch.setattr(graphs, "export_graph", lambda *_, **__: pytest.fail("exported"))
    with pytest.raises(BuildError, match=message) as caught:
        build(model, asked, tmp_path / "b", cache_dir=tmp_path / "cache")
    assert caught.value.hint


class Pool(torch.nn.Module):
    """Averages over the length, padding included: it has no mask to know better."""

    def forward(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"states": features * 2, "mean": features.mean(dim=1)}


def test_a_plain_module_that_feels_padding_is_reported_and_never_padded(tmp_path):
    report = build(Pool(), profile(8, 24), tmp_path / "b", example_inputs={"features": torch.randn(2, 6, 3)})
    assert report.parity.passed and report.parity.padding_effect > 0.01
    assert not report.bundle.manifest.padding_invariant
    rows = [np.random.default_rng(n).normal(size=(n, 3)).astype(np.float32) for n in (5, 6, 6, 30)]
    with Runtime.open(tmp_path / "b") as runtime:
        results = runtime.run([{"features": row} for row in rows])
    for row, result in zip(rows[:3], results[:3], strict=True):
        np.testing.assert_allclose(result.outputs["mean"], row.mean(0), atol=1e-5)
        assert result.dispatch[0].padding == 0
    np.testing.assert_allclose(results[3].outputs["states"], rows[3] * 2, atol=1e-5)


def test_a_model_without_weights_has_no_weight_file(tmp_path):
    report = build(Pool(), profile(8), tmp_path / "b", example_inputs={"features": torch.randn(2, 6, 3)})
    assert report.bundle.manifest.weights is None and report.weights_bytes == 0
    assert not (tmp_path / "b/graphs/weights.bin").exists()
    Bundle.open(tmp_path / "b")


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_other_precisions_stay_within_their_tolerance(model, cache, tmp_path, precision):
    report = build(model, profile(16, precision=precision), tmp_path / "b", cache_dir=cache)
    assert report.parity.passed and report.bundle.manifest.buckets[0].precision == precision


def test_buckets_of_two_precisions_stand_side_by_side(model, cache, tmp_path):
    mixed = ResourceProfile.model_validate(
        {
            "name": "mixed",
            "buckets": [{"max_length": 16, "precision": "int8"}, {"max_length": 48}],
            "overflow": {"overlap": 0},
        }
    )
    report = build(model, mixed, tmp_path / "b", cache_dir=cache)
    assert report.parity.passed
    with Runtime.open(tmp_path / "b", share_weights="off") as runtime:
        runtime.run([{"input_ids": [2, 6, 7, 3]}, {"input_ids": [2, *[6] * 30, 3]}])
        assert runtime.stats().open_sessions == 2


def test_progress_is_told_bucket_by_bucket(model, cache, tmp_path):
    told = []
    build(model, profile(16, 48), tmp_path / "b", cache_dir=cache, on_progress=lambda *step: told.append(step))
    assert ("export", 1, 1) in told and ("specialise", 2, 2) in told and ("parity", 2, 2) in told
