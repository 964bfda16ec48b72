"""The precision of a decoder graph: the numbers it computes with, its weights and its cache."""

from __future__ import annotations

import onnx_ir as ir

from ctx_export.decoding.blocks import quantise_blocks
from ctx_export.heads import dims_of, given
from ctx_export.narrowing import narrow
from ctx_export.quantising import quantise_weights
from ctx_runtime.decoder import DecoderForm
from ctx_runtime.errors import ExportError
from ctx_runtime.manifest import Tolerance
from ctx_runtime.resource_profile import Precision

TOLERANCES: dict[Precision, Tolerance] = {
    "fp32": Tolerance(max_abs=1e-3, min_cosine=0.99999),
    "fp16": Tolerance(max_abs=2e-1, min_cosine=0.999),
    "int8": Tolerance(max_abs=4.0, min_cosine=0.98),
    "int4": Tolerance(max_abs=32.0, min_cosine=0.7),
}
"""What counts as the same logits as PyTorch's in float32, by precision.

Measured on SmolLM2-135M-Instruct, whose logits reach 36, at the edges of buckets of 256 and 1,024 tokens, max abs and
cosine: fp32 7e-5 and 1.0000000; int8 1.4 and 0.9997, 15 to 17 of 17 greedy tokens the same; int4 21 and 0.947 after a
single token. Rounding weights to 4 bits without calibration is coarse: int4's tolerance tells only that the graph runs
the right network, not that it is good. `docs/language-models.md` has its perplexity.
"""


def convert(graph: ir.Model, precision: Precision, *, form: DecoderForm) -> ir.Model:
    """`graph`, in float32, at another precision; it stays as it is, and the new graph shares what did not change.

    `fp16` computes, and keeps its cache, in 16 bits; logits stay float32. `int8` and `int4` store the weights of
    matrix products in 8 or 4 bits: in blocks for ONNX Runtime's MatMulNBits in the form `gqa`, behind a
    DequantizeLinear in the form `attention`. The head has 8 bits in both. Embeddings stay float32.

    Raises:
        ExportError: bf16, which no cache on the host can hold.
    """
    if precision == "bf16":
        raise ExportError("a decoder has no precision bf16", hint="take fp16")
    if precision == "fp16":
        values = (*graph.graph.inputs, *graph.graph.outputs)
        cache = [name for value in values if (name := value.name or "").startswith(("past_", "present_"))]
        return narrow(graph, ir.DataType.FLOAT16, border=cache)
    if precision == "fp32":
        return graph
    graph = _untie(graph)
    quantise = quantise_blocks if form == "gqa" else quantise_weights
    return quantise(graph, bits=8) if precision == "int8" else quantise(graph, bits=4, wide=_head(graph))


def _head(graph: ir.Model) -> list[str]:
    """The name of the result of the product that gives the logits, before a bias and a cap."""
    node = next(output for output in graph.graph.outputs if output.name == "logits").producer()
    while node is not None and node.op_type != "MatMul":
        makers = (operand.producer() for operand in node.inputs if operand is not None)
        node = next((maker for maker in makers if maker is not None), None)
    return [] if node is None else [node.outputs[0].name or ""]


def _untie(graph: ir.Model) -> ir.Model:
    """`graph` with plain MatMuls in the place of Gemms, whose weights may be embeddings too."""
    model = graph.clone()
    gemms = [node for node in model.graph if node.op_type == "Gemm" and given(node.inputs[1]).is_initializer()]
    for gemm in gemms:
        weight = given(gemm.inputs[1])
        if gemm.attributes.get_int("transB", 0):
            weight = _transposed(model.graph, weight)
        output = gemm.outputs[0]
        product = ir.node("MatMul", [gemm.inputs[0], weight])
        added: list[ir.Node] = [product]
        if len(gemm.inputs) > 2 and gemm.inputs[2] is not None:
            added.append(ir.node("Add", [product.outputs[0], gemm.inputs[2]]))
        for new in added:
            new.outputs[0].type, new.outputs[0].shape = output.type, output.shape
        model.graph.insert_before(gemm, added)
        ir.convenience.replace_all_uses_with(output, added[-1].outputs[0], replace_graph_outputs=True)
        added[-1].outputs[0].name, output.name = output.name, None
        model.graph.remove(gemm, safe=True)
    return model


def _transposed(graph: ir.Graph, weight: ir.Value) -> ir.Value:
    tensor = weight.const_value
    assert tensor is not None  # noqa: S101 (an initializer)
    name, shape = f"{weight.name}.transposed", ir.Shape(dims_of(weight)[::-1])
    lazy = ir.LazyTensor(lambda: ir.Tensor(tensor.numpy().T.copy()), dtype=tensor.dtype, shape=shape, name=name)
    value = ir.Value(name=name, shape=shape, type=ir.TensorType(tensor.dtype), const_value=lazy)
    graph.register_initializer(value)
    return value
