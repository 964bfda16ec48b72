from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from ctx_export.intervals import Interval
from ctx_export.specialising import specialise
from ctx_runtime.errors import ExportError
from tests.fixtures.graphs import MAX_LENGTH, exported, op_types, run, source

KINDS = ["bert", "roberta", "modernbert", "module"]
BUCKETS = [8, 32, 64]


def mask_of(kind: str) -> str:
    return next(spec.name for spec in source(kind).inputs if spec.role == "mask")


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("longest", BUCKETS)
def test_a_bucket_gives_the_answers_of_the_whole_range_up_to_its_edge(kind, longest):
    bucket = specialise(exported(kind), length=Interval(1, longest))
    for lengths in [(1,), (longest - 1, 1), (longest,), (longest, longest - 1, 2)]:
        arrays = source(kind).example(len(lengths), lengths)
        assert_same(run(bucket, arrays), run(exported(kind), arrays))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("longest", BUCKETS)
def test_the_mask_free_form_gives_the_answers_of_a_mask_of_ones(kind, longest):
    bucket = specialise(exported(kind), length=Interval(1, longest), all_ones=mask_of(kind))
    assert mask_of(kind) not in [value.name for value in bucket.graph.inputs]
    for batch, length in [(1, 1), (1, longest), (3, longest - 1)]:
        arrays = source(kind).example(batch, [length] * batch)
        assert arrays[mask_of(kind)].all()
        assert_same(run(bucket, arrays), run(exported(kind), arrays))


def masked_attention(model: ir.Model) -> list[bool]:
    """For every attention of a graph, whether it has a mask."""
    attentions = [node for node in model.graph if node.op_type == "Attention"]
    return [any(value is not None for value in node.inputs[3:]) for node in attentions]


@pytest.mark.parametrize("kind", ["bert", "roberta", "module"])
def test_nothing_in_the_mask_free_form_is_quadratic_in_the_length(kind):
    bucket = specialise(exported(kind), length=Interval(1, MAX_LENGTH), all_ones=mask_of(kind))
    shapes = [str(value.shape) for node in bucket.graph for value in node.outputs]
    assert not [shape for shape in shapes if shape.count("length") > 1]
    assert not any(node.op_type == "Where" for node in bucket.graph)
    assert not any(masked_attention(bucket))


def test_a_sliding_window_stays_where_the_bucket_is_longer_and_goes_where_it_is_not():
    # ModernBERT's local layers see 8 tokens to each side.
    long, short = (
        specialise(exported("modernbert"), length=Interval(1, n), all_ones="attention_mask") for n in (10, 9)
    )
    assert masked_attention(long) == [False, True]
    assert masked_attention(short) == [False, False]


def rows(model: ir.Model, table: str) -> list[int]:
    initializers = model.graph.initializers.items()
    return [value.shape[0] for name, value in initializers if f"{table}.weight" in name and value.uses()]


@pytest.mark.parametrize(("kind", "more"), [("bert", 0), ("roberta", 2)])
@pytest.mark.parametrize("longest", BUCKETS)
def test_position_tables_end_with_the_bucket(kind, more, longest):
    bucket = specialise(exported(kind), length=Interval(1, longest))
    assert rows(bucket, "position_embeddings") == [longest + more]
    assert rows(bucket, "word_embeddings") == rows(exported(kind), "word_embeddings")


def test_a_table_is_not_cut_where_tokens_may_reach_any_row():
    bucket = specialise(exported("bert"), length=Interval(1, 8))
    assert rows(bucket, "token_type_embeddings") == [2]


def test_one_size_of_a_dimension_makes_it_static_and_folds_what_depends_on_it():
    bucket = specialise(exported("bert"), length=Interval(16, 16), batch=Interval(1, 1))
    assert [list(value.shape) for value in bucket.graph.inputs] == [[1, 16]] * 3
    assert not {"Shape", "Range", "Concat"}.intersection(op_types(bucket))
    arrays = source("bert").example(1, [16])
    assert_same(run(bucket, arrays), run(exported("bert"), arrays))


def test_the_graph_of_all_lengths_stays_as_it_is_and_shares_its_weights():
    canonical = exported("bert")
    before = ir.to_proto(canonical).SerializeToString(deterministic=True)
    bucket = specialise(canonical, length=Interval(1, 8), all_ones="attention_mask")
    assert ir.to_proto(canonical).SerializeToString(deterministic=True) == before
    shared = [name for name in bucket.graph.initializers if name in canonical.graph.initializers]
    assert len(shared) > 20
    for name in shared:
        assert bucket.graph.initializers[name].const_value is canonical.graph.initializers[name].const_value


def test_a_bucket_records_its_bounds():
    bucket = specialise(exported("bert"), length=Interval(1, 8), batch=Interval(1, 4))
    assert bucket.metadata_props == {"ctx_export.batch": "1..4", "ctx_export.length": "1..8"}


def test_a_mask_that_alone_shows_the_length_cannot_be_removed():
    mask = ir.Value(name="mask", shape=ir.Shape(["batch", "length"]), type=ir.TensorType(ir.DataType.FLOAT))
    double = ir.node("Add", [mask, mask])
    graph = ir.Graph([mask], double.outputs, nodes=[double], opset_imports={"": 23})
    with pytest.raises(ExportError, match=r"no input beside 'mask' begins with the dimensions \(batch, length\)"):
        specialise(ir.Model(graph, ir_version=10), length=Interval(1, 8), all_ones="mask")
