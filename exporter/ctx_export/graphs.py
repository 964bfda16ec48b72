"""A PyTorch model -> one ONNX graph for every batch and length: one torch.export, one conversion, proven dynamic."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
from onnx_ir.passes.common import (
    ClearMetadataAndDocStringPass,
    CommonSubexpressionEliminationPass,
    RemoveUnusedNodesPass,
)

from ctx_export.constants import compute_constants
from ctx_export.quiet import quiet
from ctx_export.subnetworks import cut
from ctx_runtime.errors import ExportError
from ctx_runtime.manifest import InputSpec, OutputSpec, TensorSpec, Tolerance
from ctx_runtime.parity import compare

OPSET = 23
"""The first opset with a standard Attention, which keeps every attention in one node."""
_EXAMPLE_LENGTH = 23
"""Tokens of the example that is traced; any number that no layer has as its width."""
_LONGEST_PROOF = 512
"""Tokens of the longest proof here; longer buckets are proven one by one, without a mask's quadratic memory."""
_SAME_NETWORK = Tolerance(max_abs=1e-2, min_cosine=0.9999)
"""What separates rounding from another network."""


class Exportable(Protocol):
    """What the export needs of a source."""

    @property
    def name(self) -> str:
        """The model, in error messages."""

    @property
    def module(self) -> torch.nn.Module:
        """In eval mode; `module(**inputs)` returns a dict with at least the names of `outputs`.

        A wrapper of a PreTrainedModel needs neither `config` nor any method of its own, and its `forward` may take
        `**inputs`.
        """

    @property
    def inputs(self) -> Sequence[InputSpec]:
        """What the graph takes."""

    @property
    def outputs(self) -> Sequence[OutputSpec]:
        """What the graph returns."""

    @property
    def via(self) -> Literal["transformers", "torch"]:
        """Whether the model needs the patches and translations of transformers' exporter."""

    def example(self, batch: int, lengths: Sequence[int]) -> dict[str, np.ndarray]:
        """Inputs `(batch, max(lengths), …)`, padded, the mask set."""

    def run(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """PyTorch's answer."""


def export_graph(source: Exportable, *, max_length: int) -> ir.Model:
    """The one graph of `source` for all lengths `1..max_length` and all batches.

    Its inputs and outputs have the names, order, dtypes and shapes of the source, dimensions `batch` and `length`
    included. It is proven dynamic: it gives PyTorch's answers at other batches and lengths than it was traced with.
    That of a length-adaptive model still has its markers; see `ctx_export.subnetworks`.

    Raises:
        ExportError: torch.export or the conversion refuses the model, an axis is not dynamic, or the answers differ.
    """
    length = min(max_length, _EXAMPLE_LENGTH)
    example = {name: torch.from_numpy(array) for name, array in source.example(2, [length, length]).items()}
    convert = _convert_transformers if source.via == "transformers" else _convert_module
    try:
        with quiet():
            model = convert(source, {spec.name: example[spec.name] for spec in source.inputs}, max_length)
    except Exception as error:
        raise ExportError(
            f"{source.name} can't be exported: {_reason(error)}", hint="--debug shows the whole error"
        ) from error
    _select_outputs(model.graph, source)
    _name_dims(model.graph, source)
    _expand_operands(model.graph)
    ClearMetadataAndDocStringPass()(model)
    CommonSubexpressionEliminationPass()(model)
    RemoveUnusedNodesPass()(model)
    compute_constants(model)
    _prove_dynamic(cut(model), source, max_length)
    return model


def _dims(spec: TensorSpec, max_length: int) -> dict[int, torch.export.Dim]:
    """The dynamic axes of an input."""
    sizes = {"batch": torch.export.Dim("batch", min=1), "length": torch.export.Dim("length", min=1, max=max_length)}
    return {axis: sizes[dim] for axis, dim in enumerate(spec.shape) if isinstance(dim, str)}


def _convert_transformers(source: Exportable, example: dict[str, torch.Tensor], max_length: int) -> ir.Model:
    from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter  # noqa: PLC0415 (slow to import)

    shapes = {spec.name: _dims(spec, max_length) for spec in source.inputs}
    config = OnnxConfig(dynamic=True, dynamic_shapes=shapes, opset_version=OPSET)
    model: ir.Model = OnnxExporter().export(source.module, example, config=config).program
    return model


class _Positional(torch.nn.Module):
    """A module that takes its inputs by position: torch.export can't give names of `**inputs` dynamic axes."""

    def __init__(self, module: torch.nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.module = module
        self.names = names

    def forward(self, *inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        outputs: dict[str, torch.Tensor] = self.module(**dict(zip(self.names, inputs, strict=True)))
        return outputs


def _convert_module(source: Exportable, example: dict[str, torch.Tensor], max_length: int) -> ir.Model:
    module, inputs = _Positional(source.module, list(example)), tuple(example.values())
    shapes = tuple(_dims(spec, max_length) for spec in source.inputs)
    with torch.no_grad():
        outputs = list(module(*inputs))
        program = torch.export.export(module, inputs, dynamic_shapes=(shapes,), strict=False)
        converted = torch.onnx.export(
            program, input_names=list(example), output_names=outputs, opset_version=OPSET, verbose=False
        )
    assert converted is not None  # noqa: S101 (None only where it writes a file)
    return converted.model


def _reason(error: BaseException) -> str:
    """The line of an exporter's error that tells most: a violated constraint, or the innermost cause and its place."""
    violated = re.search(r"^  - (.*?)(?:\. If |$)", str(error), re.MULTILINE)
    if violated:
        return violated[1]
    where = ""
    while True:
        text = str(error)
        place = re.search(r'File "[^"]*?([^"/\\]+)", line (\d+), in \w+\n\s*(.+)', text)
        node = re.search(r"translating node (%\w+)", text)
        if place:
            where = f" ({place[1]}:{place[2]}: {place[3].strip()})"
        elif node:
            where = f" (node {node[1]})"
        if error.__cause__ is None:
            first = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
            return first + where
        error = error.__cause__


def _select_outputs(graph: ir.Graph, source: Exportable) -> None:
    """Keep the outputs that the source names, in its order."""
    found = {value.name: value for value in graph.outputs}
    missing = [spec.name for spec in source.outputs if spec.name not in found]
    if missing:
        raise ExportError(f"{source.name} has no output {missing[0]!r}; it has {', '.join(map(str, found))}")
    graph.outputs[:] = [found[spec.name] for spec in source.outputs]


def _name_dims(graph: ir.Graph, source: Exportable) -> None:
    """Call the dynamic dimensions `batch` and `length` in every shape, and hold the graph to the source's shapes."""
    inputs = {value.name: value for value in graph.inputs}
    names: dict[str, str] = {}
    for spec in source.inputs:
        for dim, wanted in zip(inputs[spec.name].shape or (), spec.shape, strict=True):
            if isinstance(wanted, str) and isinstance(dim, ir.SymbolicDim) and dim.value is not None:
                names[dim.value] = wanted
    for value in [*graph.inputs, *(output for node in graph for output in node.outputs)]:
        if value.shape is not None:
            value.shape = ir.Shape([_renamed(dim, names) for dim in value.shape])
    outputs = {value.name: value for value in graph.outputs}
    for stated in (*source.inputs, *source.outputs):
        value = inputs.get(stated.name) or outputs[stated.name]
        found = tuple(dim if isinstance(dim, int) else dim.value for dim in value.shape or ())
        if found != stated.shape:
            raise ExportError(
                f"{source.name} was exported with {stated.name!r} of shape ({', '.join(map(str, found))}), "
                f"not ({', '.join(map(str, stated.shape))})",
                hint="an axis that should be dynamic was fixed, or depends on another; look for sizes in `forward`",
            )


def _renamed(dim: int | ir.SymbolicDim, names: Mapping[str, str]) -> int | str | None:
    """A dimension, or an expression of dimensions such as `4*s43`, in our names."""
    if isinstance(dim, int) or dim.value is None:
        return dim if isinstance(dim, int) else None
    return re.sub(r"\b[A-Za-z_]\w*", lambda match: names.get(match[0], match[0]), dim.value)


def _expand_operands(graph: ir.Graph) -> None:
    """Write out broadcasts that the conversion leaves to the operator, and ONNX Runtime refuses.

    RotaryEmbedding takes caches `(batch, length, rotary/2)` with a row for each row of the batch, Attention a mask
    `(…, length, length)` with a row for each query.
    """
    for node in list(graph):
        if node.domain == "" and node.op_type == "RotaryEmbedding" and len(node.inputs) == 3:
            for index in (1, 2):
                _expand(graph, node, index, axis=-3, size_of=0)
        if node.domain == "" and node.op_type == "Attention" and len(node.inputs) > 3 and node.inputs[3] is not None:
            _expand(graph, node, 3, axis=-2, size_of=len((node.inputs[0] and node.inputs[0].shape) or ()) - 2)


def _expand(graph: ir.Graph, node: ir.Node, index: int, *, axis: int, size_of: int) -> None:
    """Broadcast `axis` of an operand of `node` to the size that `node`'s first operand has on its axis `size_of`."""
    first, operand = node.inputs[0], node.inputs[index]
    assert first is not None and first.shape is not None and operand is not None  # noqa: S101 (required operands)
    wanted, dims = first.shape[size_of], [] if operand.shape is None else list(operand.shape)
    if len(dims) >= -axis:
        if dims[axis] == wanted:
            return
        dims[axis] = wanted
    # Read off a graph input, the size is the same value for every layer, and so is what is expanded to it.
    axes = ((value, at) for value in graph.inputs for at, dim in enumerate(value.shape or ()) if dim == wanted)
    shown, at = next(axes, (first, size_of))
    size = ir.node("Shape", [shown], {"start": at, "end": at + 1})
    ones = ir.node("Constant", [], {"value_ints": [1] * (-axis - 1)})
    shape = ir.node("Concat", [size.outputs[0], ones.outputs[0]], {"axis": 0})
    expand = ir.node("Expand", [operand, shape.outputs[0]])
    expand.outputs[0].type, expand.outputs[0].shape = operand.type, ir.Shape(dims) if dims else None
    graph.insert_before(node, [size, ones, shape, expand])
    node.replace_input_with(index, expand.outputs[0])


def _prove_dynamic(model: ir.Model, source: Exportable, max_length: int) -> None:
    """Run the graph at other batches and lengths than the traced ones, and compare with PyTorch.

    Raises:
        ExportError: ONNX Runtime refuses the graph, or an answer differs.
    """
    longest = min(max_length, _LONGEST_PROOF)
    cases = {(1,), (min(2, longest), 1, min(2, longest)), (min(13, longest), 2 if longest > 1 else 1, 1), (longest,)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        ir.save(model, path, external_data="model.data")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # errors are raised; keep them off the terminal
        session: onnxruntime.InferenceSession | None = None
        for lengths in sorted(cases, key=max):
            arrays = source.example(len(lengths), lengths)
            try:
                session = session or onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
                answers = session.run(None, {spec.name: arrays[spec.name] for spec in source.inputs})
            except Exception as error:  # ONNX Runtime's errors have no common class of their own
                reason = re.sub(r".*(Status Message: |was false\. )", "", str(error).splitlines()[0])
                raise ExportError(f"{source.name}: the graph fails at lengths {list(lengths)}: {reason}") from error
            _compare(source, lengths, arrays, dict(zip((spec.name for spec in source.outputs), answers, strict=True)))


def _compare(
    source: Exportable, lengths: tuple[int, ...], arrays: dict[str, np.ndarray], answers: dict[str, np.ndarray]
) -> None:
    case = compare(
        source.run(arrays),
        answers,
        outputs=source.outputs,
        bucket="all lengths",
        form="masked",
        lengths=lengths,
        padded_to=max(lengths),
        tolerance=_SAME_NETWORK,
    )
    if not case.passed:
        raise ExportError(
            f"{source.name}: at lengths {list(lengths)} the graph differs from PyTorch by {case.max_abs:.3g} (cosine "
            f"{case.cosine:.4f})",
            hint="`forward` depends on a size in a way that tracing did not see",
        )
