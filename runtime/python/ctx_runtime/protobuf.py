"""Reads Protocol Buffers into dataclasses, more strictly than the library does: what is not declared is refused.

A message is a dataclass whose fields are made with the functions below. The library skips unknown fields, merges
messages that come twice and takes the last of two numbers; so two readers can see two graphs in one file. Here a field
that is not declared, has another wire type or comes twice without being repeated is an error.

Encoding: https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Literal, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_WIRE_TYPES = {"integer": _VARINT, "float": _FIXED32, "text": _BYTES, "data": _BYTES, "message": _BYTES}

T = TypeVar("T", bound="DataclassInstance")


class WireError(ValueError):
    """Bytes that are not the message they should be."""


class WireLimitError(ValueError):
    """A message of more fields than the decoder allows."""


@dataclass(frozen=True)
class _Spec:
    """How a dataclass field stands on the wire."""

    number: int
    kind: Literal["integer", "float", "text", "data", "message"]
    repeated: bool = False
    message: type[DataclassInstance] | None = None


def integer(number: int) -> int:
    """A signed 64-bit integer, an enumeration or a boolean."""
    return field(default=0, metadata={"spec": _Spec(number, "integer")})


def integers(number: int) -> list[int]:
    """Signed 64-bit integers, packed or not."""
    return field(default_factory=list, metadata={"spec": _Spec(number, "integer", repeated=True)})


def floats(number: int, *, repeated: bool) -> list[memoryview]:
    """32-bit floats, undecoded; packed ones stay together."""
    return field(default_factory=list, metadata={"spec": _Spec(number, "float", repeated=repeated)})


def text(number: int) -> str:
    """UTF-8 without NUL."""
    return field(default="", metadata={"spec": _Spec(number, "text")})


def texts(number: int) -> list[str]:
    """Strings of UTF-8 without NUL."""
    return field(default_factory=list, metadata={"spec": _Spec(number, "text", repeated=True)})


def data(number: int) -> memoryview | None:
    """Bytes, or a message that is not decoded; None if absent."""
    return field(default=None, metadata={"spec": _Spec(number, "data")})


def datas(number: int) -> list[memoryview]:
    """Byte strings, or messages that are not decoded."""
    return field(default_factory=list, metadata={"spec": _Spec(number, "data", repeated=True)})


def message(number: int, kind: type[T]) -> T | None:
    """A message; None if absent."""
    return field(default=None, metadata={"spec": _Spec(number, "message", message=kind)})


def messages(number: int, kind: type[T]) -> list[T]:
    """Messages."""
    return field(default_factory=list, metadata={"spec": _Spec(number, "message", repeated=True, message=kind)})


class Decoder:
    """Decodes messages of at most `max_fields` fields and packed integers in all."""

    def __init__(self, max_fields: int) -> None:
        self._fields_left = max_fields
        self._specs: dict[type, dict[int, tuple[str, _Spec]]] = {}

    def decode(self, kind: type[T], view: memoryview) -> T:
        """The message of dataclass `kind` that `view` holds.

        Raises:
            WireError: the bytes are not that message.
            WireLimitError: there are too many fields.
        """
        if kind not in self._specs:
            self._specs[kind] = _specs(kind)
        specs, decoded, seen = self._specs[kind], kind(), set()
        for number, wire_type, value in self._read_fields(view):
            name, spec = specs.get(number, (None, None))
            if name is None or spec is None:
                raise WireError(f"{kind.__name__} has a field {number}, which is not supported")
            if number in seen and not spec.repeated:
                raise WireError(f"{kind.__name__}.{name} comes twice")
            seen.add(number)
            values = self._values(f"{kind.__name__}.{name}", spec, wire_type, value)
            if spec.repeated or spec.kind == "float":
                getattr(decoded, name).extend(values)
            else:
                setattr(decoded, name, values[0])
        return decoded

    def _read_fields(self, view: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
        """The number, wire type and value of each field."""
        position, end = 0, len(view)
        while position < end:
            self._count(1)
            tag, position = _read_varint(view, position)
            wire_type = tag & 7
            if wire_type == _VARINT:
                number, position = _read_varint(view, position)
                yield tag >> 3, wire_type, number
                continue
            if wire_type == _BYTES:
                size, position = _read_varint(view, position)
            elif wire_type in (_FIXED32, _FIXED64):
                size = 4 if wire_type == _FIXED32 else 8
            else:
                raise WireError(f"wire type {wire_type} is not supported")
            if size > end - position:
                raise WireError(f"a field of {size} bytes where {end - position} are left")
            yield tag >> 3, wire_type, view[position : position + size]
            position += size

    def _values(self, where: str, spec: _Spec, wire_type: int, value: int | memoryview) -> list[object]:
        """What one occurrence of a field adds to it."""
        packed = spec.repeated and spec.kind in ("integer", "float") and wire_type == _BYTES
        if wire_type != _WIRE_TYPES[spec.kind] and not packed:
            raise WireError(f"{where} has wire type {wire_type}")
        if isinstance(value, int):
            return [_signed(value)]
        if spec.message is not None:
            return [self.decode(spec.message, value)]
        if spec.kind == "text":
            return [_text(where, value)]
        if spec.kind == "integer":
            return list(self._unpack(value))
        if spec.kind == "float" and len(value) % 4:
            raise WireError(f"{where} holds part of a float")
        return [value]

    def _unpack(self, view: memoryview) -> Iterator[int]:
        position = 0
        while position < len(view):
            self._count(1)
            number, position = _read_varint(view, position)
            yield _signed(number)

    def _count(self, number: int) -> None:
        self._fields_left -= number
        if self._fields_left < 0:
            raise WireLimitError("too many fields")


def _specs(kind: type[DataclassInstance]) -> dict[int, tuple[str, _Spec]]:
    """The fields of a message by number."""
    declared = [(entry.name, entry.metadata["spec"]) for entry in fields(kind)]
    return {spec.number: (name, spec) for name, spec in declared}


def _read_varint(view: memoryview, position: int) -> tuple[int, int]:
    """An unsigned 64-bit integer, and the position after it."""
    result = 0
    for shift in range(0, 70, 7):
        if position >= len(view):
            raise WireError("it ends inside a number")
        byte = view[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            if result >= 1 << 64:
                break
            return result, position
    raise WireError("a number of more than 64 bits")


def _signed(number: int) -> int:
    return number - (1 << 64) if number >= 1 << 63 else number


def _text(where: str, view: memoryview) -> str:
    try:
        decoded = str(view, "utf-8")
    except UnicodeDecodeError as error:
        raise WireError(f"{where} is not UTF-8") from error
    if "\0" in decoded:
        raise WireError(f"{where} holds a NUL byte")
    return decoded
