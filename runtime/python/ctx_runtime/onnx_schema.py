"""The part of ONNX's file format that a bundle's graphs use.

Absent on purpose, and so refused: functions, training information, sparse tensors, quantization annotations, device
configurations, attributes that refer to a function's, types other than tensors, segmented tensors, and numbers in any
form but `raw_data` or external data. Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

# ruff: noqa: RUF009 (the calls make dataclass fields)

from __future__ import annotations

from dataclasses import dataclass

from ctx_runtime.protobuf import data, datas, floats, integer, integers, message, messages, text, texts


@dataclass(slots=True)
class Entry:
    """StringStringEntryProto."""

    key: str = text(1)
    value: str = text(2)


@dataclass(slots=True)
class Tensor:
    """TensorProto; `data_location` is 1 for external data."""

    dims: list[int] = integers(1)
    data_type: int = integer(2)
    name: str = text(8)
    raw_data: memoryview | None = data(9)
    doc_string: memoryview | None = data(12)
    external_data: list[Entry] = messages(13, Entry)
    data_location: int = integer(14)
    metadata_props: list[memoryview] = datas(16)


@dataclass(slots=True)
class Attribute:
    """AttributeProto; `g` and `graphs` hold a Graph each."""

    name: str = text(1)
    f: list[memoryview] = floats(2, repeated=False)
    i: int = integer(3)
    s: memoryview | None = data(4)
    t: Tensor | None = message(5, Tensor)
    g: memoryview | None = data(6)
    floats: list[memoryview] = floats(7, repeated=True)
    ints: list[int] = integers(8)
    strings: list[memoryview] = datas(9)
    tensors: list[Tensor] = messages(10, Tensor)
    graphs: list[memoryview] = datas(11)
    doc_string: memoryview | None = data(13)
    type: int = integer(20)


@dataclass(slots=True)
class Node:
    """NodeProto; an empty input name is an optional input that is left out."""

    input: list[str] = texts(1)
    output: list[str] = texts(2)
    name: str = text(3)
    op_type: str = text(4)
    attribute: list[Attribute] = messages(5, Attribute)
    doc_string: memoryview | None = data(6)
    domain: str = text(7)
    metadata_props: list[memoryview] = datas(9)


@dataclass(slots=True)
class Dimension:
    """A size, or the name of one that varies."""

    dim_value: int = integer(1)
    dim_param: str = text(2)
    denotation: memoryview | None = data(3)


@dataclass(slots=True)
class TensorShape:
    """TensorShapeProto."""

    dim: list[Dimension] = messages(1, Dimension)


@dataclass(slots=True)
class TensorType:
    """TypeProto.Tensor."""

    elem_type: int = integer(1)
    shape: TensorShape | None = message(2, TensorShape)


@dataclass(slots=True)
class Type:
    """TypeProto."""

    tensor_type: TensorType | None = message(1, TensorType)
    denotation: memoryview | None = data(6)


@dataclass(slots=True)
class ValueInfo:
    """ValueInfoProto."""

    name: str = text(1)
    type: Type | None = message(2, Type)
    doc_string: memoryview | None = data(3)
    metadata_props: list[memoryview] = datas(4)


@dataclass(slots=True)
class Graph:
    """GraphProto; the types of intermediate values are not decoded."""

    node: list[Node] = messages(1, Node)
    name: str = text(2)
    initializer: list[Tensor] = messages(5, Tensor)
    doc_string: memoryview | None = data(10)
    input: list[ValueInfo] = messages(11, ValueInfo)
    output: list[ValueInfo] = messages(12, ValueInfo)
    value_info: list[memoryview] = datas(13)
    metadata_props: list[memoryview] = datas(16)


@dataclass(slots=True)
class OperatorSet:
    """OperatorSetIdProto."""

    domain: str = text(1)
    version: int = integer(2)


@dataclass(slots=True)
class Model:
    """ModelProto."""

    ir_version: int = integer(1)
    producer_name: str = text(2)
    producer_version: str = text(3)
    domain: str = text(4)
    model_version: int = integer(5)
    doc_string: memoryview | None = data(6)
    graph: Graph | None = message(7, Graph)
    opset_import: list[OperatorSet] = messages(8, OperatorSet)
    metadata_props: list[memoryview] = datas(14)
