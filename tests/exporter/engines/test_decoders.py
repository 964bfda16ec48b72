"""TensorRT-RTX engines of a decoder in SmolLM2's shape at reduced depth: one for each capacity."""

from __future__ import annotations

import pytest
import torch
import transformers

from ctx_export.engine_job import add_engines
from ctx_export.engines.inspecting import read_header
from ctx_export.pipeline import build
from ctx_runtime.bundle import Bundle
from ctx_runtime.errors import EngineError
from tests.fixtures.decoders import decoder_profile, write_decoder

TARGET = "rtx:sm89"


def smollm2(folder):
    """Two of its 30 layers, and fewer words."""
    config = transformers.LlamaConfig(
        vocab_size=1024, hidden_size=576, intermediate_size=1536, num_hidden_layers=2, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=8192, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.rtx
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_each_capacity_has_an_engine_with_one_profile_up_to_a_chunk(precision, tmp_path):
    profile = decoder_profile(
        (64, 256),
        precision=precision,
        backends=["tensorrt-rtx", "onnxruntime-cpu"],
        batch={"min": 1, "opt": 1, "max": 2},
        decoding={"chunk": 128, "sinks": 4, "reserve": 16},
    )
    report = build(smollm2(tmp_path / "model"), profile, tmp_path / "bundle", targets=[TARGET])
    manifest = report.bundle.manifest
    assert manifest.decoder.form == "attention"
    assert [engine.optimization_profiles for engine in manifest.engines] == [{"ctx-64": 0}, {"ctx-256": 0}]
    assert all(read_header(report.bundle.path(engine.file)).targets == ("sm89",) for engine in manifest.engines)


@pytest.mark.rtx
def test_the_bounds_of_an_engine_are_those_of_its_bucket(tmp_path):
    profile = decoder_profile((64,), backends=["tensorrt-rtx"], batch={"min": 1, "opt": 1, "max": 2})
    built = build(write_decoder("llama-3", tmp_path / "model"), profile, tmp_path / "bundle")
    (engine,) = add_engines(built.bundle.root, [TARGET])
    shapes = engine.profiles[0].inputs
    assert shapes["input_ids"].model_dump() == {"min": (1, 1), "opt": (1, 1), "max": (2, 8)}
    assert shapes["mask"].max == (2, 1, 8, 64) and shapes["past_key.0"].max == (2, 2, 64, 16)
    assert Bundle.open(built.bundle.root).manifest.engines == (engine.record,)


def test_the_form_for_the_cpu_is_refused(tmp_path):
    built = build(write_decoder("llama-3", tmp_path / "model"), decoder_profile(), tmp_path / "bundle")
    with pytest.raises(EngineError, match="the form that only ONNX Runtime's CPU runs"):
        add_engines(built.bundle.root, [TARGET])
