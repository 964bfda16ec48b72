"""A graph of a bundle -> a TensorRT network, strictly: what the parser would let pass is an error here.

The graph is the one that ONNX Runtime runs. TensorRT's parser reads its `com.microsoft.MultiHeadAttention` as a native
attention layer that may be decomposed. The one step is taken in memory: attention that stayed standard gets the
attribute `TRT_decomposable`, without which float32 has no kernel, and which onnx.checker and ONNX Runtime refuse; and a
weight that shares its bytes with a longer one gets its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import onnx
from onnx.external_data_helper import ExternalDataInfo, load_external_data_for_tensor, uses_external_data

from ctx_export.engines import EngineRequest
from ctx_runtime.backends.tensorrt_library import Native
from ctx_runtime.errors import EngineError
from ctx_runtime.manifest import DType

_DTYPES: dict[DType, str] = {"float32": "FLOAT", "float16": "HALF", "int64": "INT64", "int32": "INT32", "bool": "BOOL"}


class BuildLog:
    """What the library said during one build, by severity; `logger` is what the library takes."""

    def __init__(self, trt: ModuleType) -> None:
        self.warnings: list[str] = []
        self.errors: list[str] = []
        levels, build = trt.ILogger.Severity, self

        class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
            def log(self, severity: Native, message: str) -> None:
                if severity <= levels.ERROR:
                    build.errors.append(message)
                elif severity == levels.WARNING:
                    build.warnings.append(message)

        self.logger = Logger()


def input_names(graph: Path) -> frozenset[str]:
    """What a graph file takes."""
    return frozenset(value.name for value in onnx.load(graph, load_external_data=False).graph.input)


def graph_for_tensorrt(graph: Path, *, capacity: int | None = None) -> bytes:
    """The graph file as TensorRT parses it, its weights still beside it; a decoder's with a cache of `capacity` tokens.

    Raises:
        EngineError: the file holds no graph, or numbers that TensorRT would silently make less precise.
    """
    model = onnx.load(graph, load_external_data=False)
    if not model.graph.node:
        raise EngineError(f"{graph.name} holds no graph", hint="build the bundle again")
    if capacity is not None:
        _fix_capacity(model.graph, capacity)
    typed = onnx.shape_inference.infer_shapes(model)
    elements = {value.name: value.type.tensor_type.elem_type for value in typed.graph.value_info}
    elements |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for name, element in elements.items():
        if element == onnx.TensorProto.DOUBLE:
            raise EngineError(f"{graph.name}: {name!r} is float64, which TensorRT would compute in float32")
    _embed_beginnings(model.graph.initializer, graph.parent)
    for node in model.graph.node:
        if node.op_type == "Attention" and node.domain == "":
            node.attribute.append(onnx.helper.make_attribute("TRT_decomposable", 1))
    serialized: bytes = model.SerializeToString()
    return serialized


def _fix_capacity(graph: onnx.GraphProto, capacity: int) -> None:
    """Give the dimension `capacity` its one size; shapes that depend on it are inferred again."""
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == "capacity":
                dim.dim_value = capacity


def _embed_beginnings(tensors: Iterable[onnx.TensorProto], folder: Path) -> None:
    """Copy in every weight that is the beginning of a longer one in the file: TensorRT knows weights by address."""
    places = [
        (tensor, place.offset, place.length)
        for tensor in tensors
        if uses_external_data(tensor) and (place := ExternalDataInfo(tensor)).length is not None
    ]
    longest: dict[int | None, int] = {}
    for _, offset, length in places:
        longest[offset] = max(length or 0, longest.get(offset, 0))
    for tensor, offset, length in places:
        if (length or 0) < longest[offset]:
            load_external_data_for_tensor(tensor, str(folder))
            tensor.data_location = onnx.TensorProto.DEFAULT
            del tensor.external_data[:]


def parse_network(trt: ModuleType, builder: Native, log: BuildLog, request: EngineRequest) -> tuple[Native, Native]:
    """The strongly typed network of the request's graph, and the parser, which owns its weights.

    Raises:
        EngineError: TensorRT refuses an operator, ignores an input, or sees other inputs than the bundle states.
    """
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log.logger)
    if not parser.parse(graph_for_tensorrt(request.graph, capacity=request.capacity), str(request.graph)):
        raise _refusal(parser.get_error(0), request) if parser.num_errors else EngineError(_last(log, request))
    ignored = next((line for line in log.warnings if "Unused Input" in line), None)
    if ignored is not None:
        raise EngineError(f"{request.subject}: TensorRT ignores an input of the graph: {ignored}")
    _check_inputs(trt, network, request)
    return network, parser


def _refusal(error: Native, request: EngineRequest) -> EngineError:
    """The parser's first error; those that follow it only repeat that the parsing failed."""
    reason = " ".join(error.desc().split())
    return EngineError(
        f"{request.subject}: TensorRT refuses operator {error.node_operator() or 'unknown'} of node "
        f"{error.node_name()!r}: {reason[:300]}",
        hint="run this bucket on ONNX Runtime, or write the model without this operator",
    )


def _last(log: BuildLog, request: EngineRequest) -> str:
    return f"{request.subject}: TensorRT can't parse {request.graph.name}: {(log.errors or ['no reason given'])[0]}"


def _check_inputs(trt: ModuleType, network: Native, request: EngineRequest) -> None:
    found = {network.get_input(i).name: network.get_input(i).dtype for i in range(network.num_inputs)}
    stated = {name: getattr(trt.DataType, _DTYPES[dtype]) for name, dtype in request.inputs.items()}
    for name in sorted({*found, *stated}):
        if found.get(name) != stated.get(name):
            raise EngineError(
                f"{request.subject}: input {name!r} is {found.get(name)} in the network, {stated.get(name)} in the "
                "bundle"
            )
