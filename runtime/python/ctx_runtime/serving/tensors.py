"""Tensors as the Open Inference Protocol writes them <-> arrays: numbers in JSON, and bytes behind it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, Field

from ctx_runtime.errors import InputError

Datatype = Literal[
    "BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "FP16", "FP32", "FP64"
]
"""The datatypes that are read. BF16 has no numpy dtype, and BYTES is text, which the graphs don't take."""
Size = Annotated[int, Field(ge=0, lt=1 << 31)]

_DTYPES: dict[Datatype, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    **{name: np.dtype(name.lower()) for name in ("INT8", "INT16", "INT32", "INT64")},
    **{name: np.dtype(name.lower()) for name in ("UINT8", "UINT16", "UINT32", "UINT64")},
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


class InputParameters(BaseModel):
    """What may stand beside an input; others are ignored."""

    binary_data_size: Size | None = None


class InputTensor(BaseModel):
    """An input: its numbers as `data`, nested or flat, or as `binary_data_size` bytes behind the JSON."""

    name: str
    shape: Annotated[list[Size], Field(max_length=8)]
    datatype: Datatype
    parameters: InputParameters = InputParameters()
    data: list[Any] | None = None


class OutputParameters(BaseModel):
    """How an output is written."""

    binary_data_size: int


class OutputTensor(BaseModel):
    """An output: its numbers as flat `data`, or as bytes behind the JSON."""

    name: str
    shape: list[int]
    datatype: Datatype
    parameters: OutputParameters | None = None
    data: list[Any] | None = None


def datatype_of(dtype: str) -> Datatype:
    """The protocol's word for a numpy dtype."""
    return _NAMES[np.dtype(dtype)]


def read_inputs(tensors: Sequence[InputTensor], binary: bytes) -> dict[str, np.ndarray]:
    """The arrays of all inputs; those with a `binary_data_size` lie in `binary`, one after the other.

    Raises:
        InputError: an input twice, numbers that do not fit the datatype or the shape, or too few or too many bytes.
    """
    arrays: dict[str, np.ndarray] = {}
    start = 0
    for tensor in tensors:
        if tensor.name in arrays:
            raise InputError(f"input {tensor.name!r} is given twice")
        size = tensor.parameters.binary_data_size
        if (size is None) == (tensor.data is None):
            raise InputError(f"input {tensor.name!r} has data or binary_data_size, one of them")
        if size is None:
            arrays[tensor.name] = _from_numbers(tensor)
        else:
            arrays[tensor.name] = _from_bytes(tensor, binary[start : start + size], size)
            start += size
    if start != len(binary):
        raise InputError(f"{len(binary)} bytes follow the JSON, the inputs have {start}")
    return arrays


def _from_numbers(tensor: InputTensor) -> np.ndarray:
    wanted = _DTYPES[tensor.datatype]
    try:
        array = np.asarray(tensor.data if tensor.data else np.empty(0, wanted))
    except ValueError:
        raise InputError(f"the data of input {tensor.name!r} are no array", hint="give rows of one length") from None
    known = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}[wanted.kind]
    if array.dtype.kind not in known:
        raise InputError(f"the data of input {tensor.name!r} are no {tensor.datatype}")
    if array.dtype.kind in "iu" and wanted.kind in "iu" and array.size:
        limits = np.iinfo(wanted)
        if int(array.min()) < limits.min or int(array.max()) > limits.max:
            raise InputError(f"the data of input {tensor.name!r} go beyond {tensor.datatype}")
    return _shaped(tensor, array.ravel().astype(wanted))


def _from_bytes(tensor: InputTensor, piece: bytes, size: int) -> np.ndarray:
    wanted = _DTYPES[tensor.datatype]
    if len(piece) != size or size != math.prod(tensor.shape) * wanted.itemsize:
        raise InputError(
            f"input {tensor.name!r} has {len(piece)} bytes and a binary_data_size of {size}, "
            f"{tensor.datatype} {tensor.shape} has {math.prod(tensor.shape) * wanted.itemsize}"
        )
    return _shaped(tensor, np.frombuffer(piece, wanted))


def _shaped(tensor: InputTensor, array: np.ndarray) -> np.ndarray:
    if array.size != math.prod(tensor.shape):
        raise InputError(f"input {tensor.name!r} has {array.size} numbers, its shape {tensor.shape} has others")
    return array.reshape(tensor.shape)


def write_output(name: str, array: np.ndarray, *, binary: bool) -> tuple[OutputTensor, bytes]:
    """An output, and the bytes that belong behind the JSON: none unless it is `binary`.

    Raises:
        InputError: NaN or infinite numbers, which JSON lacks.
    """
    datatype = datatype_of(array.dtype.name)
    stated = OutputTensor(name=name, shape=list(array.shape), datatype=datatype)
    if binary:
        raw = array.astype(_DTYPES[datatype]).tobytes()
        return stated.model_copy(update={"parameters": OutputParameters(binary_data_size=len(raw))}), raw
    if not np.isfinite(array).all():
        raise InputError(f"output {name!r} has NaN or infinite numbers, which JSON lacks", hint="ask for binary_data")
    return stated.model_copy(update={"data": array.ravel().tolist()}), b""
