from __future__ import annotations

import dataclasses
import logging

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from ctx_export.graphs import export_graph
from ctx_export.intervals import Interval
from ctx_export.specialising import specialise
from ctx_runtime.errors import ExportError
from tests.fixtures.graphs import MAX_LENGTH, exported, op_types, run, source
from tests.fixtures.sources import module_source


def signature(values: list[ir.Value]) -> list[tuple[str | None, list[str]]]:
    return [(value.name, [str(dim) for dim in value.shape or ()]) for value in values]


@pytest.mark.parametrize("kind", ["bert", "roberta", "modernbert", "module"])
def test_a_graph_has_the_names_order_and_dimensions_of_its_source(kind):
    graph = exported(kind).graph
    expected = source(kind)
    assert signature(graph.inputs) == [(spec.name, [str(dim) for dim in spec.shape]) for spec in expected.inputs]
    assert signature(graph.outputs) == [(spec.name, [str(dim) for dim in spec.shape]) for spec in expected.outputs]


@pytest.mark.parametrize("kind", ["bert", "roberta", "modernbert", "module"])
@pytest.mark.parametrize("lengths", [(1,), (MAX_LENGTH,), (7, 3), (31, 1, 30, 17)])
def test_a_graph_gives_the_answers_of_pytorch_at_any_batch_and_length(kind, lengths):
    arrays = source(kind).example(len(lengths), lengths)
    answers = run(exported(kind), arrays)
    for name, expected in source(kind).run(arrays).items():
        for row, length in enumerate(lengths):
            real = slice(length) if expected.ndim > 2 else slice(None)
            np.testing.assert_allclose(answers[name][row][real], expected[row][real], atol=1e-5, err_msg=name)


@pytest.mark.parametrize("kind", ["bert", "roberta", "modernbert", "module"])
def test_attention_stays_one_standard_node(kind):
    layers = 1 if kind == "module" else 2
    assert [node.domain for node in exported(kind).graph if node.op_type == "Attention"] == [""] * layers


def test_a_graph_carries_no_trace_of_the_machine_that_made_it():
    model = exported("bert")
    assert not model.metadata_props
    assert not any(node.metadata_props or node.doc_string for node in model.graph)


def test_many_buckets_need_one_torch_export_and_one_conversion(monkeypatch):
    calls: list[str] = []

    def counted(name, original):
        return lambda *args, **kwargs: (calls.append(name), original(*args, **kwargs))[1]

    monkeypatch.setattr(torch.export, "export", counted("export", torch.export.export))
    monkeypatch.setattr(torch.onnx, "export", counted("convert", torch.onnx.export))
    model = export_graph(module_source(), max_length=MAX_LENGTH)
    for longest in (8, 16, 32, 64):
        specialise(model, length=Interval(1, longest))
        specialise(model, length=Interval(1, longest), all_ones="mask")
    assert calls == ["export", "convert"]


class TwoOutputs(nn.Module):
    def forward(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"unwanted": features.sinh(), "states": features.cosh()}


def test_outputs_that_the_source_does_not_name_are_removed_with_their_code():
    model = export_graph(module_source(TwoOutputs()), max_length=MAX_LENGTH)
    assert [value.name for value in model.graph.outputs] == ["states"]
    assert op_types(model) == ["Cosh"]


class AnyNames(nn.Module):
    def forward(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"states": inputs["features"].cosh()}


def test_a_module_may_take_its_inputs_as_keywords():
    model = export_graph(module_source(AnyNames()), max_length=MAX_LENGTH)
    assert signature(model.graph.inputs) == [("features", ["batch", "length", "8"])]


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def forward(self, features: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"states": self.layers(features, src_key_padding_mask=~mask)}


def test_pytorchs_own_encoder_loses_its_mask_too():
    model = export_graph(dataclasses.replace(module_source(), module=Encoder().eval()), max_length=MAX_LENGTH)
    bucket = specialise(model, length=Interval(1, 16), all_ones="mask")
    (attention,) = (node for node in bucket.graph if node.op_type == "Attention")
    assert len(attention.inputs) == 3
    arrays = module_source().example(2, [16, 16])
    np.testing.assert_allclose(run(bucket, arrays)["states"], run(model, arrays)["states"], atol=1e-5)


class FixedTable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.randn(1, 23, 8))

    def forward(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"states": features + self.table}


class ShortRange(nn.Module):
    def forward(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"states": features.split(24, dim=1)[0]}


class Doubled(nn.Module):
    def forward(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"states": torch.cat([features, features], dim=1)}


class DataDependent(nn.Module):
    def forward(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"states": features if features.sum() > 0 else -features}


class NoTranslation(nn.Module):
    def forward(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"states": torch.special.bessel_j0(features)}


class OtherNetwork(nn.Module):
    def forward(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"states": features * (2 if torch.compiler.is_exporting() else 3)}


class OtherName(nn.Module):
    def forward(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"hidden": features * 2}


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (FixedTable, r"length .* constant \(23\)"),
        (ShortRange, "Not all values of length"),
        (Doubled, r"'states' of shape \(batch, 2\*length, 8\), not \(batch, length, 8\)"),
        (DataDependent, r"data-dependent expression .*test_graphs\.py:\d+: return .*features\.sum\(\) > 0"),
        (NoTranslation, r"No ONNX function found for .*bessel_j0.* \(node %bessel_j0\)"),
        (OtherNetwork, "differs from PyTorch"),
        (OtherName, "no output 'states'; it has hidden"),
    ],
)
def test_a_model_that_is_not_dynamic_or_not_expressible_is_refused_in_one_line(module, message):
    with pytest.raises(ExportError, match=message) as refusal:
        export_graph(module_source(module()), max_length=MAX_LENGTH)
    assert "\n" not in str(refusal.value)


def test_the_export_prints_nothing_and_leaves_logging_as_it_was(capfd):
    export_graph(dataclasses.replace(module_source(TwoOutputs()), name="silent"), max_length=MAX_LENGTH)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
    assert logging.root.manager.disable == logging.NOTSET
