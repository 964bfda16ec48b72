"""Golden vectors are a plain npz: arrays of numbers and nothing that runs code when it is read, case by case."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ctx_runtime.constant_size import bounded_product
from ctx_runtime.errors import BundleError
from ctx_runtime.manifest import DType, Manifest, TensorSpec

MAX_GOLDEN_BYTES = 256 << 20
_ENTRY = re.compile(r"(case[0-9]{1,4}\.(?:lengths|positions|(?:in|out)\.[A-Za-z0-9_.:/-]{1,256}))\.npy")
_CHUNK = 1 << 20
_ZIP_MAGIC = b"PK\x03\x04"
_NPY_MAGIC = b"\x93NUMPY\x01\x00"
_MAX_HEADER_BYTES = 1024
_DTYPES: dict[bytes, DType] = {b"<f4": "float32", b"<f2": "float16", b"<i8": "int64", b"<i4": "int32", b"|b1": "bool"}
_SIZE = rb"(?:0|[1-9][0-9]{0,17})"
_HEADER = re.compile(
    rb"\{'descr': '(?P<dtype><f4|<f2|<i8|<i4|\|b1)', 'fortran_order': False, "
    rb"'shape': \((?P<shape>|%b,|%b(?:, %b){1,7})\), \} *\n" % (_SIZE, _SIZE, _SIZE)
)
"""The header of an npy file as numpy writes it; numpy's own reader of headers evaluates Python literals."""


@dataclass(frozen=True)
class _Header:
    dtype: DType
    shape: tuple[int, ...]


def check_golden(path: Path, manifest: Manifest, *, shortest: int = 1) -> None:
    """Check that numpy can read all of the npz at `path`, and that it holds at least one case and nothing else.

    Args:
        path: the file.
        manifest: says which arrays a case has.
        shortest: tokens that a row has at least.

    Raises:
        BundleError: `golden-syntax`.
    """
    try:
        headers = _read_headers(path)
        with np.load(path, allow_pickle=False) as arrays:
            case = 0
            while headers or case == 0:
                _check_case(f"case{case}", headers, arrays, manifest, shortest)
                case += 1
    except (ValueError, zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        message = " ".join(str(error).split())
        raise BundleError("golden-syntax", f"{path.name} is not a plain npz of cases: {message}") from error


def _read_headers(path: Path) -> dict[str, _Header]:
    """The header of each array; all bytes of the arrays have been read, their checksums are right."""
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if len({entry.filename for entry in entries}) != len(entries):
            raise ValueError("an entry comes twice")
        if sum(entry.file_size for entry in entries) > MAX_GOLDEN_BYTES:
            raise ValueError(f"its arrays have more than {MAX_GOLDEN_BYTES} bytes")
        headers = {_array_name(entry): _read_header(archive, entry) for entry in entries}
        file.seek(0)
        if file.read(len(_ZIP_MAGIC)) != _ZIP_MAGIC:
            raise ValueError("it does not begin with its first entry")
    return headers


def _array_name(entry: zipfile.ZipInfo) -> str:
    if not (name := _ENTRY.fullmatch(entry.filename)):
        raise ValueError(f"the entry {entry.filename!r} has no name of an array")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or entry.flag_bits & 1:
        raise ValueError(f"the entry {entry.filename} is compressed otherwise than by deflate")
    return name[1]


def _read_header(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> _Header:
    with archive.open(entry) as file:
        preamble = file.read(10)
        header_bytes = int.from_bytes(preamble[8:], "little")
        if preamble[:8] != _NPY_MAGIC or header_bytes > _MAX_HEADER_BYTES:
            raise ValueError(f"the entry {entry.filename} is not an npy file of version 1.0")
        header = _HEADER.fullmatch(file.read(header_bytes))
        while file.read(_CHUNK):  # at its end the checksum is compared
            pass
    if header is None:
        raise ValueError(f"the entry {entry.filename} is not an array of a dtype and an order that is supported")
    dtype, shape = _DTYPES[header["dtype"]], tuple(map(int, re.findall(rb"[0-9]+", header["shape"])))
    if entry.file_size != len(preamble) + header_bytes + bounded_product(shape) * np.dtype(dtype).itemsize:
        raise ValueError(f"the entry {entry.filename} has not the bytes of its shape")
    return _Header(dtype, shape)


def _check_case(
    case: str, headers: dict[str, _Header], arrays: Mapping[str, np.ndarray], manifest: Manifest, shortest: int
) -> None:
    """Check one case, and take the headers of its arrays away."""
    first = next(spec for spec in manifest.inputs if spec.length_axis is not None)
    found = headers.get(f"{case}.in.{first.name}")
    sizes = dict(zip(first.shape, found.shape, strict=False)) if found is not None else {}
    batch, longest = sizes.get("batch", 0), sizes.get("length", 0)
    for spec in manifest.inputs:
        _take(f"{case}.in.{spec.name}", spec.dtype, _sized(spec, batch, longest), headers)
    _take(f"{case}.lengths", "int64", (batch,), headers)
    _check_numbers(arrays[f"{case}.lengths"], f"{case}.lengths", shortest, longest)
    stored = longest
    if f"{case}.positions" in headers:
        stored = bounded_product(headers[f"{case}.positions"].shape)
        _take(f"{case}.positions", "int64", (stored,), headers)
        positions = arrays[f"{case}.positions"]
        _check_numbers(positions, f"{case}.positions", 0, longest - 1)
        if positions[0] != 0 or (positions[1:] <= positions[:-1]).any():
            raise ValueError(f"{case}.positions do not ascend from 0")
    for output in manifest.outputs:
        _take(f"{case}.out.{output.name}", output.dtype, _sized(output, batch, stored), headers)


def _sized(spec: TensorSpec, batch: int, length: int) -> tuple[int, ...]:
    """The shape `spec` with numbers for its symbols."""
    return tuple(batch if size == "batch" else length if size == "length" else size for size in spec.shape)


def _take(name: str, dtype: DType, shape: tuple[int, ...], headers: dict[str, _Header]) -> None:
    header = headers.pop(name, None)
    if header is None:
        raise ValueError(f"it has no array {name}")
    if header != _Header(dtype, shape):
        raise ValueError(f"the array {name} is {header.dtype} {header.shape}, expected {dtype} {shape}")


def _check_numbers(numbers: np.ndarray, name: str, low: int, high: int) -> None:
    if not numbers.size or numbers.min() < low or numbers.max() > high:
        raise ValueError(f"the numbers of {name} are not in {low} ... {high}")
