"""A causal language model's bundle: one graph and one weight file for all capacities, proven at every edge."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from ctx_export.pipeline import build, verify
from ctx_runtime.bundle import Bundle
from ctx_runtime.errors import BuildError, BundleError
from ctx_runtime.golden import verify as verify_golden
from ctx_runtime.resource_profile import BucketEntry
from tests.fixtures.decoders import TEMPLATE, VOCABULARY, decoder_model, decoder_profile, write_decoder


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    return build(write_decoder("llama-3", folder / "model"), decoder_profile(), folder / "bundle")


def test_every_bucket_is_proven_at_its_edges_and_in_a_batch(built):
    cases = {(case.bucket, case.lengths) for case in built.parity.cases}
    assert {("ctx-16", (1,)), ("ctx-16", (16,)), ("ctx-48", (17,)), ("ctx-48", (48,))} <= cases
    assert {("ctx-16", (5, 10, 15)), ("ctx-16", (6, 11, 16))} <= cases
    assert all(case.passed and case.max_abs < 2e-5 and case.top1 == 1 for case in built.parity.cases)


def test_all_capacities_share_one_graph_and_the_tied_embedding_is_stored_once(built):
    manifest = built.bundle.manifest
    assert {bucket.graph for bucket in manifest.buckets} == {"graphs/fp32.onnx"}
    weights = sum(
        parameter.numel() for parameter in decoder_model("llama-3").parameters()
    )  # which counts tied weights once
    assert abs(built.weights_bytes - 4 * weights) < 4096


def test_the_manifest_says_what_a_runtime_needs(built):
    decoder = built.bundle.manifest.decoder
    assert (decoder.form, decoder.layers, decoder.kv_heads, decoder.head_size) == ("gqa", 2, 2, 16)
    assert (decoder.chunk, decoder.sinks, decoder.reserve) == (8, 3, 4)
    assert (decoder.vocab_size, decoder.eos_token_ids, decoder.sliding_window) == (VOCABULARY, (2,), None)
    assert built.bundle.path(decoder.chat_template).read_text() == TEMPLATE
    assert decoder.cache_bytes(batch=2, capacity=16) == 2 * 2 * 2 * 2 * 16 * 16 * 4


def test_golden_texts_end_in_greedy_tokens(built):
    with np.load(built.bundle.path("parity/ctx-48.npz")) as golden:
        lengths = [int(golden[f"case{index}.lengths"][0]) for index in (0, 1)]
        ids = golden["case1.in.input_ids"]
        assert lengths == [17, 48] and ids.shape == (1, 48)
        assert golden["case1.out.logits"].shape == (1, VOCABULARY)


def test_what_a_decoder_can_not_do_is_refused_before_the_export(tmp_path):
    model = write_decoder("llama-3", tmp_path / "model")
    too_long = decoder_profile((16, 512))
    with pytest.raises(BuildError, match="longer than the 256 positions"):
        build(model, too_long, tmp_path / "bundle")
    with pytest.raises(BuildError, match="overflow policy segment"):
        build(model, decoder_profile(overflow={"policy": "segment", "overlap": 2}), tmp_path / "bundle")
    with pytest.raises(BuildError, match="a part of the network"):
        build(model, decoder_profile(subnetwork={"layers": 1}), tmp_path / "bundle")
    gpt2 = write_decoder("gpt2", tmp_path / "gpt2")
    with pytest.raises(BuildError, match="learned positions"):
        build(gpt2, decoder_profile(overflow={"policy": "sliding"}), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_bundle_whose_graph_leaves_out_a_part_of_the_cache_is_refused(built, tmp_path):
    copy = shutil.copytree(built.bundle.root, tmp_path / "copy")
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["decoder"]["layers"] = 3
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError) as refused:
        Bundle.open(copy)
    assert refused.value.code == "graph-inputs" and "past_key.2" in str(refused.value)


def test_the_report_is_json(built):
    assert json.loads(json.dumps(built.to_json()))["parity"]["passed"]


def test_a_stretched_bucket_is_another_graph_over_the_same_weights(tmp_path):
    model = write_decoder("llama", tmp_path / "model")
    stretched = {"max_length": 300, "subnetwork": {"position_resolution": {"kind": "yarn", "factor": 2.0}}}
    profile = decoder_profile().model_copy(update={"buckets": (BucketEntry(max_length=16), BucketEntry(**stretched))})
    report = build(model, profile, tmp_path / "bundle")
    assert {case.lengths for case in report.parity.cases if case.bucket == "ctx-300"} == {(17,), (300,)}
    assert all(case.max_abs < 2e-5 for case in report.parity.cases)
    assert [bucket.graph for bucket in report.bundle.manifest.buckets] == ["graphs/fp32.onnx", "graphs/fp32-yarn2.onnx"]
    weights = sum(parameter.numel() for parameter in decoder_model("llama").parameters())
    assert abs(report.weights_bytes - 4 * weights) < 4096
    assert verify(tmp_path / "bundle", model).passed


def test_eight_bits_are_a_quarter_of_the_products_bytes(tmp_path, built):
    model = write_decoder("llama-3", tmp_path / "model")
    report = build(model, decoder_profile(precision="int8"), tmp_path / "bundle")
    assert report.parity.passed and report.parity.worst()["max_abs"] > 1e-3
    table = 4 * 97 * 64
    assert report.weights_bytes - table < 0.4 * (built.weights_bytes - table)


def test_golden_texts_are_read_on_the_device_too(built):
    report = verify_golden(built.bundle)
    assert report.passed and [case.lengths for case in report.cases] == [(1,), (16,), (17,), (48,)]
    assert all(case.top1 == 1 for case in report.cases)
