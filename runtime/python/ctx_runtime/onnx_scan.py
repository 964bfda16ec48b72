"""Looks through an ONNX file without loading it: ONNX Runtime gets only what keeps the rules of `FORMAT.md`.

ONNX Runtime itself takes external data from anywhere, of any length, and computes constants of any size when it opens
a graph.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ctx_runtime.constant_size import Value, bounded_product, constant_value
from ctx_runtime.errors import BundleError
from ctx_runtime.manifest import DType, GraphTensor
from ctx_runtime.onnx_schema import Attribute, Graph, Model, Node, Tensor, ValueInfo
from ctx_runtime.protobuf import Decoder, WireError, WireLimitError
from ctx_runtime.weight_ranges import WeightRange

MAX_GRAPH_BYTES = 64 << 20
MAX_FIELDS = 2_000_000
MAX_DEPTH = 8
MAX_COMPUTED_ELEMENTS = 1 << 24
"""Elements that may be computed from constants alone when a graph opens, beside 4 for each byte of the weights."""

_BITS = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 16: 16,
         17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2}  # fmt: skip
"""Bits of an element by TensorProto.DataType; strings and complex numbers are refused."""
_DTYPES: dict[DType, int] = {"float32": 1, "int32": 6, "int64": 7, "bool": 9, "float16": 10}
OPTIONAL_INPUTS = frozenset({
    "Attention", "Clip", "DequantizeLinear", "GatherBlockQuantized", "GroupQueryAttention", "Loop", "MatMulNBits",
    "MultiHeadAttention", "Pad", "QAttention", "QuantizeLinear", "Resize", "RotaryEmbedding", "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization", "Slice",
})  # fmt: skip
"""Operators that may leave an input out, by an empty name; ONNX Runtime ends the process at some others that do."""
_COUNTS = ("batch_dims",)
"""Attributes that are never negative; ONNX Runtime ends the process on some that are."""
Scope = ChainMap[str, Value]
_STANDARD = ("", "ai.onnx")
_CONTRIB = "com.microsoft"
CONTRIB_OPERATORS = frozenset({
    "Attention", "BiasGelu", "DequantizeLinear", "DynamicQuantizeMatMul", "FastGelu", "FusedMatMul",
    "GatherBlockQuantized", "Gelu", "GroupQueryAttention", "MatMulIntegerToFloat", "MatMulNBits", "MultiHeadAttention",
    "QAttention", "QuickGelu", "QuantizeLinear", "RotaryEmbedding", "SimplifiedLayerNormalization",
    "SkipLayerNormalization", "SkipSimplifiedLayerNormalization",
})  # fmt: skip
"""The operators of `com.microsoft` that a graph may use. Others read files (EPContext) or call back into the host."""


@dataclass(frozen=True)
class GraphContract:
    """What the manifest says of a graph.

    Attributes:
        inputs: those that it may take.
        required: the names of those that it must take: the mask of a graph for padded rows, a decoder's cache.
        outputs: those that it gives, all of them.
        weights: the name of the weight file beside the graph, None if it may have no external data.
        weights_bytes: the size of the weight file.
    """

    inputs: Sequence[GraphTensor]
    required: frozenset[str]
    outputs: Sequence[GraphTensor]
    weights: str | None
    weights_bytes: int


def scan_graph(path: str, data: bytes, contract: GraphContract) -> list[WeightRange]:
    """Check the ONNX file `data`, called `path` in errors; the ranges that it reads of the weight file.

    Raises:
        BundleError: `graph-syntax`, `graph-size`, `graph-inputs`, `weight-location`, `weight-range`.
    """
    if len(data) > MAX_GRAPH_BYTES:
        raise BundleError("graph-size", f"{path} has {len(data)} bytes, at most {MAX_GRAPH_BYTES} are allowed")
    scan = _Scan(path, contract, Decoder(MAX_FIELDS))
    try:
        scan.model(scan.decoder.decode(Model, memoryview(data)))
    except WireError as error:
        raise BundleError("graph-syntax", f"{path} is not an ONNX file of the supported form: {error}") from error
    except WireLimitError as error:
        raise BundleError("graph-size", f"{path} has more than {MAX_FIELDS} fields") from error
    return scan.ranges


@dataclass
class _Scan:
    """One walk over a model; `ranges` and `computed` are what it has found so far."""

    path: str
    contract: GraphContract
    decoder: Decoder
    ranges: list[WeightRange] = field(default_factory=list)
    computed: int = 0

    def model(self, model: Model) -> None:
        domains = [_domain(entry.domain) for entry in model.opset_import]
        if model.graph is None:
            raise BundleError("graph-syntax", f"{self.path} holds no graph")
        if len(set(domains)) != len(domains):
            raise BundleError("graph-syntax", f"{self.path} imports an operator set twice")
        self._interface(model.graph)
        self._graph(model.graph, ChainMap(), depth=0)

    def _interface(self, graph: Graph) -> None:
        """Compare inputs and outputs with those of the manifest."""
        inputs = {spec.name: spec for spec in self.contract.inputs}
        outputs = {spec.name: spec for spec in self.contract.outputs}
        self._values("input", graph.input, inputs)
        self._values("output", graph.output, outputs)
        if untaken := self.contract.required - {value.name for value in graph.input}:
            raise BundleError("graph-inputs", f"{self.path} does not take the input {min(untaken)!r}")
        if missing := set(outputs) - {value.name for value in graph.output}:
            raise BundleError("graph-inputs", f"{self.path} has no output {min(missing)!r}")

    def _values(self, kind: str, values: Sequence[ValueInfo], specs: Mapping[str, GraphTensor]) -> None:
        names = [value.name for value in values]
        if len(set(names)) != len(names):
            raise BundleError("graph-inputs", f"{self.path} has an {kind} twice")
        for value in values:
            if value.name not in specs:
                raise BundleError("graph-inputs", f"{self.path}: the {kind} {value.name!r} is not in the manifest")
            if not _matches(value, specs[value.name]):
                raise BundleError(
                    "graph-inputs", f"{self.path}: the {kind} {value.name!r} has not the manifest's dtype and shape"
                )

    def _graph(self, graph: Graph, outer: Scope, *, depth: int) -> None:
        """Check a graph and those inside it; `outer` holds the values that it can see."""
        if depth > MAX_DEPTH:
            raise BundleError("graph-size", f"{self.path} nests graphs more than {MAX_DEPTH} deep")
        scope = outer.new_child()
        for value in graph.input:
            self._define(value.name, None, scope)
        for tensor in graph.initializer:
            self._tensor(tensor)
            self._define(tensor.name, tensor, scope)
        for node in graph.node:
            self._node(node, scope, depth=depth)

    def _node(self, node: Node, scope: Scope, *, depth: int) -> None:
        domain = _domain(node.domain)
        if domain not in ("", _CONTRIB) or (domain == _CONTRIB and node.op_type not in CONTRIB_OPERATORS):
            raise BundleError(
                "graph-syntax", f"{self.path}: the operator {node.op_type!r} of {domain!r} is not supported"
            )
        if "" in node.input and node.op_type not in OPTIONAL_INPUTS:
            raise BundleError("graph-syntax", f"{self.path}: {node.op_type!r} {node.name!r} leaves an input out")
        for name in node.input:
            if name and name not in scope:
                raise BundleError("graph-syntax", f"{self.path}: {node.op_type!r} {node.name!r} comes before its input")
        for attribute in node.attribute:
            self._attribute(attribute, scope, depth=depth)
        value = constant_value(node, scope)
        if isinstance(value, int):
            self._count(node, value)
        for name in node.output:
            if name:
                self._define(name, value, scope)

    def _count(self, node: Node, elements: int) -> None:
        self.computed += elements
        if self.computed > MAX_COMPUTED_ELEMENTS + 4 * self.contract.weights_bytes:
            raise BundleError(
                "graph-size", f"{self.path}: {node.op_type!r} {node.name!r} computes a constant of {elements} elements"
            )

    def _define(self, name: str, value: Value, scope: Scope) -> None:
        if name in scope:
            raise BundleError("graph-syntax", f"{self.path} defines {name!r} twice")
        scope[name] = value

    def _attribute(self, attribute: Attribute, scope: Scope, *, depth: int) -> None:
        lowest = 0 if attribute.name in _COUNTS else -(1 << 31)
        if not lowest <= attribute.i < 1 << 31:
            raise BundleError("graph-syntax", f"{self.path}: the attribute {attribute.name!r} is {attribute.i}")
        for tensor in [*([attribute.t] if attribute.t else []), *attribute.tensors]:
            self._tensor(tensor)
        for view in [*([attribute.g] if attribute.g is not None else []), *attribute.graphs]:
            self._graph(self.decoder.decode(Graph, view), scope, depth=depth + 1)

    def _tensor(self, tensor: Tensor) -> None:
        """Check that a tensor's bytes are all there, in the file or in the weight file, and no more."""
        if tensor.data_type not in _BITS or min(tensor.dims, default=0) < 0:
            raise BundleError("graph-syntax", f"{self.path}: tensor {tensor.name!r} has no dtype or shape of a tensor")
        size = (bounded_product(tensor.dims) * _BITS[tensor.data_type] + 7) // 8
        if tensor.data_location == 1 and tensor.raw_data is None:
            self.ranges.append(self._external(tensor, size))
        elif tensor.data_location or tensor.external_data or len(tensor.raw_data or b"") != size:
            raise BundleError("graph-syntax", f"{self.path}: tensor {tensor.name!r} has not its {size} bytes of data")

    def _external(self, tensor: Tensor, size: int) -> WeightRange:
        where = f"{self.path}: tensor {tensor.name!r}"
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location")
        if location is None or location != self.contract.weights:
            raise BundleError("weight-location", f"{where} lies in {location!r}, not in the bundle's weight file")
        if sorted(entry.key for entry in tensor.external_data) != ["length", "location", "offset"]:
            raise BundleError("weight-range", f"{where} needs a location, an offset and a length, once each")
        offset, length = _decimal(where, entries["offset"]), _decimal(where, entries["length"])
        if length != size or size == 0:
            raise BundleError("weight-range", f"{where} has {length} bytes, its shape needs {size}")
        if offset % max(_BITS[tensor.data_type] // 8, 1):
            raise BundleError("weight-range", f"{where} starts at {offset}, in the middle of an element")
        if offset + length > self.contract.weights_bytes:
            raise BundleError("weight-range", f"{where} ends past the end of {location}")
        return WeightRange(offset, length, tensor.name, self.path)


def _domain(domain: str) -> str:
    return "" if domain in _STANDARD else domain


def _matches(value: ValueInfo, spec: GraphTensor) -> bool:
    tensor_type = value.type.tensor_type if value.type else None
    if tensor_type is None or tensor_type.shape is None:
        return False
    dims = [(dim.dim_value, dim.dim_param) for dim in tensor_type.shape.dim]
    expected = [(0, size) if isinstance(size, str) else (size, "") for size in spec.shape]
    return tensor_type.elem_type == _DTYPES[spec.dtype] and dims == expected


def _decimal(where: str, digits: str) -> int:
    """A whole number in decimal as a weight range has it: no sign, no leading zero, at most 18 digits."""
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 18 and digits == str(int(digits))):
        raise BundleError("weight-range", f"{where} has {digits[:40]!r} where a number of bytes is expected")
    return int(digits)
