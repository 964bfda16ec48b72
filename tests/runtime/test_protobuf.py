"""The decoder reads what the library writes, and refuses what two readers could read in two ways."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from ctx_runtime.onnx_schema import Attribute, Model, OperatorSet, Tensor
from ctx_runtime.protobuf import Decoder, WireError, WireLimitError
from tests.fixtures.bundles import make_graph


def decode(kind, data: bytes, *, max_fields: int = 10_000):
    return Decoder(max_fields).decode(kind, memoryview(data))


def test_it_reads_what_the_library_writes() -> None:
    library = make_graph(16, 1024, masked=True)
    ours = decode(Model, library.SerializeToString())
    assert [entry.version for entry in ours.opset_import] == [20]
    for node, other in zip(ours.graph.node, library.graph.node, strict=True):
        assert (node.op_type, node.input, node.output) == (other.op_type, list(other.input), list(other.output))
        assert [(a.name, a.i) for a in node.attribute] == [(a.name, a.i) for a in other.attribute]
    for tensor, other in zip(ours.graph.initializer, library.graph.initializer, strict=True):
        assert (tensor.name, tensor.dims, tensor.data_type) == (other.name, list(other.dims), other.data_type)
        assert [(e.key, e.value) for e in tensor.external_data] == [(e.key, e.value) for e in other.external_data]


@pytest.mark.parametrize("number", [0, 1, -1, 127, 128, (1 << 63) - 1, -(1 << 63)])
def test_numbers_are_signed(number: int) -> None:
    assert decode(OperatorSet, onnx.OperatorSetIdProto(version=number).SerializeToString()).version == number
    packed = decode(Attribute, b"\x42\x0b" + b"\x05" + varint(number))
    assert packed.ints == [5, number]


def varint(number: int) -> bytes:
    """Ten bytes, whatever the number."""
    number %= 1 << 64
    return bytes([*(number >> shift & 0x7F | 0x80 for shift in range(0, 63, 7)), number >> 63])


def test_arrays_stay_bytes() -> None:
    tensor = decode(Tensor, numpy_helper.from_array(np.arange(3.0)).SerializeToString())
    assert np.array_equal(np.frombuffer(tensor.raw_data), [0, 1, 2])
    attribute = decode(Attribute, helper.make_attribute("x", [1.5, 2.5]).SerializeToString())
    assert b"".join(attribute.floats) == np.array([1.5, 2.5], "<f4").tobytes()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x10", "ends inside a number"),
        (b"\x10" + b"\xff" * 9 + b"\x02", "more than 64 bits"),
        (b"\x10" + b"\x80" * 10 + b"\x00", "more than 64 bits"),
        (b"\x10\x01\x10\x01", r"OperatorSet\.version comes twice"),
        (b"\x0a\x02x", "a field of 2 bytes where 1 are left"),
        (b"\x12\x01x", r"OperatorSet\.version has wire type 2"),
        (b"\x18\x01", "a field 3, which is not supported"),
        (b"\x13\x14", "wire type 3 is not supported"),
        (b"\x0a\x01\xff", r"OperatorSet\.domain is not UTF-8"),
        (b"\x0a\x01\0", r"OperatorSet\.domain holds a NUL byte"),
    ],
)
def test_refused(data: bytes, message: str) -> None:
    with pytest.raises(WireError, match=message):
        decode(OperatorSet, data)


def test_fields_and_packed_numbers_are_counted_over_all_messages() -> None:
    packed = b"\x42\x04\x01\x02\x03\x04"
    assert decode(Attribute, packed, max_fields=5).ints == [1, 2, 3, 4]
    with pytest.raises(WireLimitError):
        decode(Attribute, packed, max_fields=4)
