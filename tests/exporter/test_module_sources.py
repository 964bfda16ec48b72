from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from ctx_export.sources import load_source
from ctx_runtime.errors import SourceError
from tests.fixtures.models import (
    Fixed,
    Smoother,
    Tagger,
    tagger,
)

CLS, PAD, SEP = 0, 1, 2
SPECIAL = 5


def specs(described) -> dict[str, tuple]:
    return {spec.name: spec.shape for spec in described}


class TestModules:
    def test_inputs_and_outputs_are_described_by_example_and_observation(self):
        module, examples = tagger()
        source = load_source(module, example_inputs=examples, name="my tagger", task="tagging")
        assert (source.name, source.task, source.via, source.record.kind) == ("my-tagger", "tagging", "torch", "module")
        assert [(spec.name, spec.role, spec.shape) for spec in source.inputs] == [
            ("input_ids", "tokens", ("batch", "length")),
            ("mask", "mask", ("batch", "length")),
        ]
        assert specs(source.outputs) == {"tags": ("batch", "length", 5), "summary": ("batch", 8)}
        assert [spec.fusion for spec in source.outputs] == ["concat", "mean"]
        assert source.max_length is None and source.tokenizer is None and not module.training

    def test_examples_stay_within_the_observed_range(self):
        module, examples = tagger()
        arrays = load_source(module, example_inputs=examples).example(2, [300, 2])
        assert set(np.unique(arrays["input_ids"][0])) == set(range(1, 20))
        assert set(arrays["input_ids"][1, 2:]) == {0}
        assert arrays["mask"].sum(1).tolist() == [300, 2]

    @pytest.mark.parametrize("dtype", [torch.bool, torch.int32])
    def test_a_mask_keeps_its_dtype(self, dtype):
        module, examples = tagger()
        examples["mask"] = examples["mask"].to(dtype)
        source = load_source(module, example_inputs=examples)
        assert source.inputs[1].role == "mask"
        assert source.example(1, [4])["mask"].dtype == str(dtype).removeprefix("torch.")

    def test_padding_may_change_an_answer(self):
        source = load_source(Smoother(), example_inputs={"features": torch.randn(2, 9, 8)})
        assert specs(source.outputs) == {"output0": ("batch", "length", 6)}
        row = source.example(1, [5])
        padded = {"features": np.pad(row["features"], ((0, 0), (0, 3), (0, 0)), constant_values=7.0)}
        difference = source.run(padded)["output0"][:, :5] - source.run(row)["output0"]
        np.testing.assert_allclose(difference[:, :4], 0, atol=1e-6)
        assert np.abs(difference[:, 4]).max() > 1e-2

    def test_inputs_without_a_length_keep_their_size(self):
        class Scaled(nn.Module):
            def forward(self, features: torch.Tensor, scale: torch.Tensor, kind: torch.Tensor) -> tuple:
                return features * scale[:, None], kind

        examples = {"features": torch.randn(2, 9, 3), "scale": torch.randn(2, 3), "kind": torch.tensor([4, 5])}
        source = load_source(Scaled(), example_inputs=examples)
        assert specs(source.inputs) == {
            "features": ("batch", "length", 3), "scale": ("batch", 3), "kind": ("batch",)
        }  # fmt: skip
        assert specs(source.outputs) == {"output0": ("batch", "length", 3), "output1": ("batch",)}
        assert all(spec.role == "data" for spec in source.inputs)

    @pytest.mark.parametrize(
        ("forward", "message"),
        [
            (lambda x: torch.cat([x, x, x[:, :1]], 1), "dimension 1 of output 'output0' is 19 and 9"),
            (lambda x: x.sum(), r"output 'output0' has the shape \(\)"),
            (lambda x: x @ x.mT, r"has the shape \(batch, length, length\)"),
            (lambda x: x.reshape(-1, 8), "dimension 0 of output 'output0'"),
            (lambda x: x.mT.mT.transpose(0, 1), r"has the shape \(length, batch, 8\)"),
            (lambda x: x.double(), "output 'output0' is float64; supported are float32"),
            (lambda x: {"x": x}, "output 'x' has the name of an input"),
            (lambda x: {"states": x, "extra": None}, "output 'extra' is NoneType, not a tensor"),
            (lambda x: {}, "the model returns nothing"),
            (lambda x: {"my states": x}, "output 'my states': String should match"),
            (lambda x: x[5], "the model fails for x .*: index 5 is out of bounds"),
        ],
    )
    def test_outputs_that_cant_be_described_are_refused(self, forward, message):
        module = nn.Module()
        module.forward = forward
        with pytest.raises(SourceError, match=message):
            load_source(module, example_inputs={"x": torch.randn(2, 9, 8)})

    def test_a_module_for_one_length_is_refused(self):
        with pytest.raises(SourceError, match=r"fails for features \(3, 6, 8\): .*size of tensor") as refusal:
            load_source(Fixed(), example_inputs={"features": torch.randn(2, 12, 8)})
        assert "every batch and length" in str(refusal.value.hint)

    @pytest.mark.parametrize(
        ("examples", "message"),
        [
            ({}, "example_inputs are empty"),
            ({"features": [[1]]}, "not all tensors"),
            ({"features": torch.zeros(3)}, r"'features' has the shape \(3,\)"),
            ({"features": torch.zeros(2, 0, 8)}, r"has the shape \(2, 0, 8\)"),
            ({"features": torch.zeros(2, 3, 8), "more": torch.zeros(1, 3)}, r"'more' has the shape \(1, 3\)"),
            ({"features": torch.zeros(2, 3, 8, dtype=torch.float64)}, "is float64"),
            ({"my features": torch.zeros(2, 3, 8)}, "input 'my features': String should match"),
        ],
    )
    def test_example_inputs_that_describe_nothing_are_refused(self, examples, message):
        with pytest.raises(SourceError, match=message):
            load_source(Smoother(), example_inputs=examples)


class TestCheckpoints:
    @pytest.fixture
    def checkpoint(self, tmp_path) -> Path:
        torch.manual_seed(1)
        path = tmp_path / "tagger.safetensors"
        safetensors.torch.save_model(Tagger(), str(path))
        return path

    def test_a_factory_makes_the_module_and_the_file_fills_it(self, checkpoint):
        source = load_source(checkpoint, factory="tests.fixtures.models:tagger")
        assert (source.name, source.record.kind) == ("tagger", "safetensors")
        weights = safetensors.torch.load_file(checkpoint)
        torch.testing.assert_close(source.module.state_dict()["module.embed.weight"], weights["embed.weight"])
        assert source.record != load_source(tagger()[0], example_inputs=tagger()[1]).record

    def test_a_factory_is_looked_up_in_the_current_folder(self, checkpoint, tmp_path, monkeypatch):
        (tmp_path / "nearby_factory.py").write_text("from tests.fixtures.models import tagger as make\n")
        monkeypatch.chdir(tmp_path)
        assert load_source("tagger.safetensors", factory="nearby_factory:make").task == "custom"

    def test_the_weights_must_be_those_of_the_module(self, checkpoint):
        weights = safetensors.torch.load_file(checkpoint)
        weights["head.bias"] = weights.pop("classify.bias")
        safetensors.torch.save_file(weights, checkpoint)
        with pytest.raises(SourceError, match=r"missing classify\.bias; unexpected head\.bias$"):
            load_source(checkpoint, factory="tests.fixtures.models:tagger")
        weights["classify.bias"] = torch.zeros(7)
        safetensors.torch.save_file(weights, checkpoint)
        with pytest.raises(SourceError, match=r"size mismatch for classify\.bias"):
            load_source(checkpoint, factory="tests.fixtures.models:tagger")

    def test_a_damaged_file_is_refused(self, checkpoint):
        checkpoint.write_bytes(checkpoint.read_bytes()[:100])
        with pytest.raises(SourceError, match="is not a sound safetensors file"):
            load_source(checkpoint, factory="tests.fixtures.models:tagger")

    @pytest.mark.parametrize(
        ("factory", "message"),
        [
            ("tagger", "'tagger' is not module:function"),
            ("no.such.module:tagger", "fails: ModuleNotFoundError"),
            ("tests.fixtures.models:no_such", "fails: AttributeError"),
            ("tests.fixtures.models:tokenizer", r"tokenizer returned Tokenizer"),
            ("tests.fixtures.models:write_json", "fails: TypeError"),
        ],
    )
    def test_a_factory_that_makes_nothing_is_refused(self, factory, message, checkpoint):
        with pytest.raises(SourceError, match=message):
            load_source(checkpoint, factory=factory)
