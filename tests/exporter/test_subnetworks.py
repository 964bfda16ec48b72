"""One export, many networks: what a graph cut at its markers computes, holds and stores."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from ctx_export.graphs import export_graph
from ctx_export.intervals import Interval
from ctx_export.lowering import lower_for_onnxruntime
from ctx_export.precision import TOLERANCES, convert
from ctx_export.sources import Source, load_source
from ctx_export.specialising import specialise
from ctx_export.subnetworks import cut
from ctx_export.weights import WeightStore
from ctx_models.checkpoint import save_model
from ctx_runtime.errors import ExportError
from ctx_runtime.parity import compare
from ctx_runtime.resource_profile import RopeScaling, SubNetwork
from tests.fixtures.adaptive import FFN, HEAD_SIZE, HEADS, HIDDEN, SEGMENTS, tiny_model
from tests.fixtures.graphs import op_types, run

YARN = RopeScaling(kind="yarn", factor=4)
PARTS = [
    SubNetwork(layers=1),
    SubNetwork(heads=1),
    SubNetwork(heads=3),
    SubNetwork(ffn=8),
    SubNetwork(position_resolution=YARN),
    SubNetwork(layers=1, heads=2, ffn=FFN - 1, position_resolution=RopeScaling(kind="ntk", factor=2)),
]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_model(tiny_model(num_layers=2, segment=SEGMENTS), folder)
    return load_source(folder)


@pytest.fixture(scope="module")
def exported(source: Source) -> ir.Model:
    return export_graph(source, max_length=16)


def cut_part(exported: ir.Model, source: Source, part: SubNetwork | None) -> ir.Model:
    return cut(exported, part, rotation=source.rotation(part))


def unmasked(model: ir.Model, longest: int = 16) -> ir.Model:
    return lower_for_onnxruntime(specialise(model, length=Interval(1, longest), all_ones="attention_mask"))


@pytest.mark.parametrize("part", [None, *PARTS], ids=lambda part: "-".join(part.parts()) if part else "full")
def test_a_part_gives_the_answers_of_the_model(exported: ir.Model, source: Source, part: SubNetwork | None) -> None:
    model = cut_part(exported, source, part)
    assert "ctx" not in model.opset_imports and {node.domain for node in model.graph} == {""}
    alone = unmasked(model)
    for lengths in ([1], [16], [7, 7]):
        arrays = source.example(len(lengths), lengths)
        expected = source.run(arrays, part)["logits"]
        np.testing.assert_allclose(run(alone, arrays)["logits"], expected, atol=2e-5)
    padded = source.example(3, [16, 2, 9])
    np.testing.assert_allclose(run(model, padded)["logits"], source.run(padded, part)["logits"], atol=2e-5)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: "-".join(part.parts()))
def test_every_attention_of_a_part_is_lowered(exported: ir.Model, source: Source, part: SubNetwork) -> None:
    operators = op_types(unmasked(cut_part(exported, source, part)))
    in_fusion = SEGMENTS.layers + 2
    assert operators.count("MultiHeadAttention") == (part.layers or 2) + in_fusion
    assert "Attention" not in operators


def test_a_part_holds_the_first_rows_of_weights(exported: ir.Model, source: Source) -> None:
    model = cut_part(exported, source, SubNetwork(heads=2, ffn=5))
    whole = {name: value.const_value for name, value in exported.graph.initializers.items()}
    shapes = {}
    for name, value in model.graph.initializers.items():
        if ".first" in name:
            full = whole[name.rpartition(".first")[0]].numpy()
            part = value.const_value.numpy()
            np.testing.assert_array_equal(part, full[: len(part)])
            shapes[full.shape] = part.shape
    width = HEADS * HEAD_SIZE
    assert shapes == {
        (width, HIDDEN): (2 * HEAD_SIZE, HIDDEN),
        (width,): (2 * HEAD_SIZE,),
        (FFN, HIDDEN): (5, HIDDEN),
        (FFN,): (5,),
    }


def test_sizes_follow_the_heads_and_units(exported: ir.Model, source: Source) -> None:
    model = cut_part(exported, source, SubNetwork(heads=3, ffn=5))
    attentions = [node for node in model.graph if node.op_type == "Attention"]
    assert {node.outputs[0].shape[1] for node in attentions} == {3}
    assert {tuple(map(str, node.outputs[0].shape)) for node in model.graph if node.op_type == "Gelu"} >= {
        ("batch", "length", "5")
    }
    shapes = [output.shape for node in model.graph for output in node.outputs]
    assert all(shape is not None for shape in shapes)
    assert not [dim for shape in shapes for dim in shape if not isinstance(dim, int) and dim.value is None]


def test_the_export_stays_as_it_is(exported: ir.Model, source: Source) -> None:
    before = ir.to_proto(exported).SerializeToString(deterministic=True)
    cut_part(exported, source, PARTS[-1])
    assert ir.to_proto(exported).SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_part_at_lower_precision(exported: ir.Model, source: Source, precision: str) -> None:
    part = SubNetwork(layers=1, heads=2, ffn=8)
    model = unmasked(convert(cut_part(exported, source, part), precision))
    arrays = source.example(1, [13])
    case = compare(
        source.run(arrays, part), run(model, arrays), outputs=source.outputs, bucket="b", form="unmasked",
        lengths=[13], padded_to=13, tolerance=TOLERANCES[precision],
    )  # fmt: skip
    assert case.passed, (case.max_abs, case.cosine)
    assert case.max_abs > 0


@functools.cache
def wide(folder: Path) -> tuple[Source, ir.Model]:
    """Two layers of MiniLM's widths."""
    model = tiny_model(hidden_size=384, num_heads=12, head_size=32, ffn_size=1536, vocab_size=2000, num_layers=2)
    save_model(model, folder)
    source = load_source(folder)
    return source, export_graph(source, max_length=64)


def store(folder: Path, source: Source, exported: ir.Model, parts: list[SubNetwork | None], precision: str) -> int:
    """The bytes of the weights of both forms of a bucket for each of `parts`."""
    folder.mkdir()
    graphs = {}
    for index, part in enumerate(parts):
        network = convert(cut_part(exported, source, part), precision)
        for form, mask in (("masked", None), ("unmasked", "attention_mask")):
            bucket = specialise(network, length=Interval(1, 16 * (index + 1)), all_ones=mask)
            graphs[folder / f"{index}.{form}.onnx"] = lower_for_onnxruntime(bucket)
    with WeightStore(folder / "weights.bin") as opened:
        opened.save_graphs(graphs)
    return (folder / "weights.bin").stat().st_size


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_four_sub_networks_cost_no_weights(tmp_path: Path, tmp_path_factory, precision: str) -> None:
    source, exported = wide(tmp_path_factory.getbasetemp() / "wide")
    parts = [
        SubNetwork(layers=1, heads=6, ffn=768),
        SubNetwork(layers=2, heads=6, ffn=768),
        SubNetwork(ffn=1024, position_resolution=YARN),
        None,
    ]
    alone = store(tmp_path / "alone", source, exported, [None], precision)
    together = store(tmp_path / "together", source, exported, parts, precision)
    assert alone > (4 if precision == "fp32" else 2) * 384 * 2000
    assert together <= 1.02 * alone


def marker(name: str, value: ir.Value, **attributes: object) -> ir.Node:
    node = ir.node(name, [value], attributes, domain="ctx", version=1)
    node.outputs[0].shape, node.outputs[0].type = value.shape, value.type
    return node


def chain(*nodes: ir.Node, given: ir.Value) -> ir.Model:
    graph = ir.Graph([given], [nodes[-1].outputs[0]], nodes=nodes, opset_imports={"": 23, "ctx": 1}, name="chain")
    return ir.Model(graph, ir_version=10)


def states(name: str) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(["batch", "length", 4]), type=ir.TensorType(ir.DataType.FLOAT))


def test_an_exit_at_the_end_of_a_graph_keeps_the_name_of_the_output() -> None:
    given = states("x")
    first = ir.node("Neg", [given])
    first.outputs[0].shape, first.outputs[0].type = given.shape, given.type
    early = marker("Exit", first.outputs[0], layer=1)
    second = ir.node("Exp", [early.outputs[0]])
    second.outputs[0].shape, second.outputs[0].type = given.shape, given.type
    last = marker("Exit", second.outputs[0], layer=2)
    last.outputs[0].name = "hidden"
    model = chain(first, early, second, last, given=given)
    array = np.ones((1, 2, 4), np.float32)
    np.testing.assert_allclose(run(cut(model), {"x": array})["hidden"], np.exp(-array))
    np.testing.assert_allclose(run(cut(model, SubNetwork(layers=1)), {"x": array})["hidden"], -array)


def test_a_part_of_what_is_computed_is_refused() -> None:
    given = states("x")
    elastic = marker("Elastic", given, axis_kind="heads", unit=1)
    last = ir.node("Neg", [elastic.outputs[0]])
    last.outputs[0].name, last.outputs[0].shape, last.outputs[0].type = "y", given.shape, given.type
    with pytest.raises(ExportError, match="x is computed: a sub-network can take a part of stored weights only"):
        cut(chain(elastic, last, given=given), SubNetwork(heads=1))
