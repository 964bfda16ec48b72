"""Decoder graphs at other precisions: what is stored, and how near their logits are to float32's."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from ctx_export.decoding.blocks import BLOCK_SIZE, pack
from ctx_export.decoding.graph import Decoder
from ctx_export.decoding.grouped import lower_to_grouped
from ctx_export.decoding.precision import convert
from ctx_runtime.errors import ExportError
from ctx_runtime.generation.stepping import Stepper
from tests.fixtures.decoders import decoder, decoder_record, open_graph, reference_logits, text


def graph_at(kind, precision, form="gqa"):
    source = decoder(kind)
    graph = lower_to_grouped(source) if form == "gqa" else source.graph
    return convert(graph, precision, form=form)


def unpack(numbers, scales, bits):
    """The weights `(out, in)` that blocks stand for."""
    if bits == 4:
        numbers = np.stack([numbers & 15, numbers >> 4], -1).reshape(*numbers.shape[:2], BLOCK_SIZE)
    centred = numbers.astype(np.float32) - 2 ** (bits - 1)
    return (centred * scales.reshape(*numbers.shape[:2], 1)).reshape(len(numbers), -1)


@pytest.mark.parametrize(("bits", "error"), [(8, 0.02), (4, 0.3)])
def test_blocks_stand_for_their_weights(bits, error):
    weight = np.random.default_rng(0).normal(size=(72, 5)).astype(np.float32)  # the last block is not full
    numbers, scales = pack(weight, bits)
    assert numbers.shape == (5, 3, BLOCK_SIZE * bits // 8) and scales.shape == (15,)
    np.testing.assert_allclose(unpack(numbers, scales, bits)[:, :72].T, weight, atol=error)


def test_a_block_of_zeros_stays_zero():
    numbers, scales = pack(np.zeros((32, 1), np.float32), 4)
    np.testing.assert_array_equal(unpack(numbers, scales, 4), 0)


@pytest.mark.parametrize(("precision", "cosine"), [("int8", 0.999), ("int4", 0.9)])
@pytest.mark.parametrize("kind", ["llama-3", "gpt2"])
def test_logits_are_near_float32s(kind, precision, cosine):
    ids, record = text(20), decoder_record(kind, "gqa")
    run, inputs = open_graph(graph_at(kind, precision))
    actual = Stepper(run, inputs, record, capacity=20).read(ids)[-1]
    expected = reference_logits(kind, ids)[-1]
    assert actual @ expected / np.linalg.norm(actual) / np.linalg.norm(expected) > cosine


@pytest.mark.parametrize("kind", ["llama-3", "gpt2"])
def test_every_product_with_a_weight_is_quantised_the_tied_heads_too(kind):
    graph = graph_at(kind, "int8").graph
    kinds = [node.op_type for node in graph]
    assert "MatMulNBits" in kinds and not {"MatMul", "Gemm"}.intersection(kinds)
    assert all(node.attributes["accuracy_level"].as_int() == 4 for node in graph if node.op_type == "MatMulNBits")


def test_a_graph_for_tensorrt_keeps_standard_operators():
    graph = graph_at("llama-3", "int4", form="attention").graph
    assert {node.domain for node in graph} == {""} and "DequantizeLinear" in [node.op_type for node in graph]


def test_sixteen_bits_take_and_give_the_cache_as_it_is():
    graph = graph_at("llama-3", "fp16", form="attention").graph
    cache = [value for value in (*graph.inputs, *graph.outputs) if value.name.startswith(("past", "present"))]
    assert len(cache) == 8 and {value.dtype for value in cache} == {ir.DataType.FLOAT16}
    writes = [node for node in graph if node.op_type == "TensorScatter"]
    assert all(write.inputs[0].is_graph_input() and write.outputs[0].is_graph_output() for write in writes)
    assert graph.outputs[0].dtype == ir.DataType.FLOAT


def test_bfloat16_is_refused():
    with pytest.raises(ExportError, match="no precision bf16"):
        graph_at("llama-3", "bf16")


def test_the_source_graph_stays_as_it_was():
    before = [node.op_type for node in decoder("llama-3").graph.graph]
    graph_at("llama-3", "int4")
    assert [node.op_type for node in decoder("llama-3").graph.graph] == before
    assert isinstance(decoder("llama-3"), Decoder)


@pytest.mark.parametrize("kind", ["llama-3", "gpt2"])
def test_four_bits_leave_eight_to_the_head(kind):
    graph = graph_at(kind, "int4").graph
    products = [node for node in graph if node.op_type == "MatMulNBits"]
    bits = [node.attributes["bits"].as_int() for node in products]
    assert bits[-1] == 8 and set(bits[:-1]) == {4} and products[-1].outputs[0] is graph.outputs[0]
    widths = {
        value.dtype for node in graph_at(kind, "int4", form="attention").graph if node.op_type == "DequantizeLinear"
        for value in node.inputs[:1]
    }  # fmt: skip
    assert widths == {ir.DataType.INT4, ir.DataType.INT8}
