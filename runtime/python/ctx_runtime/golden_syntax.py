"""Golden vectors are a plain npz: arrays of numbers and nothing that runs code when it is read."""

from __future__ import annotations

import math
import re
import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from ctx_runtime.errors import BundleError

MAX_GOLDEN_BYTES = 256 << 20
_ENTRY = re.compile(r"case[0-9]{1,4}\.(lengths|positions|(in|out)\.[A-Za-z0-9_.:/-]{1,256})\.npy")
_CHUNK = 1 << 20
_DTYPES = ("float32", "float16", "int64", "int32", "bool")


def check_golden(path: Path) -> None:
    """Check the npz at `path` so that numpy can read all of it.

    Raises:
        BundleError: `golden-syntax`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if len({entry.filename for entry in entries}) != len(entries):
                raise ValueError("an entry comes twice")
            if sum(entry.file_size for entry in entries) > MAX_GOLDEN_BYTES:
                raise ValueError(f"its arrays have more than {MAX_GOLDEN_BYTES} bytes")
            for entry in entries:
                _check_entry(archive, entry)
    except (ValueError, zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise BundleError(
            "golden-syntax", f"{path.name} is not a plain npz: {' '.join(str(error).split())[:200]}"
        ) from error


def _check_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    if not _ENTRY.fullmatch(entry.filename):
        raise ValueError(f"the entry {entry.filename[:80]!r} has no name of an array")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or entry.flag_bits & 1:
        raise ValueError(f"the entry {entry.filename} is compressed otherwise than by deflate")
    with archive.open(entry) as file:
        version = npy.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"the entry {entry.filename} has the npy version {version}")
        shape, fortran_order, dtype = npy.read_array_header_1_0(file)
        header = file.tell()
        while file.read(_CHUNK):  # at its end the checksum is compared
            pass
    if dtype not in [np.dtype(name) for name in _DTYPES] or fortran_order or not dtype.isnative:
        raise ValueError(f"the entry {entry.filename} has the dtype {dtype}")
    if min(shape, default=0) < 0 or entry.file_size != header + math.prod(shape) * dtype.itemsize:
        raise ValueError(f"the entry {entry.filename} has not the bytes of its shape")
