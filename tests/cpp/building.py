"""Builds the C++ runtime for the tests, once; and its C interface as Python functions."""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "runtime" / "cpp"
BUILD = ROOT / "build"
ENVIRONMENT = {"CTXRT_PYTHON": sys.executable, "PYTHON": sys.executable}
_PACKAGES = {
    "gtest/gtest.h": "libgtest-dev",
    "nlohmann/json.hpp": "nlohmann-json3-dev",
    "openssl/evp.h": "libssl-dev",
    "zlib.h": "zlib1g-dev",
}
_DTYPES = [np.dtype(name) for name in ("float32", "float16", "int64", "int32", "bool", "float64")]


def run(*command: str | Path, timeout: int = 1500, **options: object) -> subprocess.CompletedProcess[str]:
    line = [str(part) for part in command]
    return subprocess.run(
        line, check=False, capture_output=True, text=True, timeout=timeout, env=os.environ | ENVIRONMENT, **options
    )


def checked(*command: str | Path, **options: object) -> str:
    """What a command prints; its failure fails the test with all that it said."""
    done = run(*command, **options)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@functools.cache
def missing() -> str | None:
    """Why the C++ runtime can't be built here, or None."""
    for program in ("cmake", "c++"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    headers = run(SOURCE / "scripts" / "get-headers", BUILD / "ort-headers", timeout=120)
    if headers.returncode:
        return f"the headers of ONNX Runtime can't be had: {headers.stderr.strip()[-200:]}"
    for header, package in _PACKAGES.items():
        if run("c++", "-E", "-x", "c++", "-include", header, os.devnull).returncode:
            return f"{header} is missing: apt-get install {package}"
    return None


@functools.cache
def build(*, sanitized: bool = False, target: str = "all") -> Path:
    """The build folder, up to date; skips the test where there is no compiler."""
    if (reason := missing()) is not None:
        pytest.skip(reason)
    checked(ROOT / "scripts" / "build-cpp", *(["--sanitized"] if sanitized else []), target)
    return BUILD / ("cpp-sanitized" if sanitized else "cpp")


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("dtype", ctypes.c_int),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("rank", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
    ]


class _Inputs(ctypes.Structure):
    _fields_ = [("tensors", ctypes.POINTER(_Tensor)), ("count", ctypes.c_size_t)]


class NativeRuntime:
    """`ctxrt.h` by ctypes."""

    def __init__(self, library: Path, bundle: Path) -> None:
        os.environ["CTXRT_PYTHON"] = sys.executable
        self._library = ctypes.CDLL(str(library))
        self._library.ctxrt_error_message.restype = ctypes.c_char_p
        self._library.ctxrt_result_outputs.restype = ctypes.c_size_t
        self._handle = ctypes.c_void_p()
        self._check(self._library.ctxrt_open(str(bundle).encode(), None, ctypes.byref(self._handle)))

    def close(self) -> None:
        self._library.ctxrt_close(self._handle)

    def run(self, rows: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
        """The outputs of inputs that the runtime batches."""
        kept: list[object] = []
        inputs = (_Inputs * len(rows))(*(self._inputs(row, kept) for row in rows))
        results = (ctypes.c_void_p * len(rows))()
        self._check(self._library.ctxrt_run_many(self._handle, inputs, len(rows), None, results))
        return [self._outputs(ctypes.c_void_p(result)) for result in results]

    def _inputs(self, row: dict[str, np.ndarray], kept: list[object]) -> _Inputs:
        tensors = (_Tensor * len(row))()
        for tensor, (name, given) in zip(tensors, row.items(), strict=True):
            array = np.ascontiguousarray(given)
            shape = (ctypes.c_int64 * array.ndim)(*array.shape)
            tensor.name, tensor.dtype, tensor.shape = name.encode(), _DTYPES.index(array.dtype), shape
            tensor.rank, tensor.data = array.ndim, array.ctypes.data
            kept += [array, shape]
        kept.append(tensors)
        return _Inputs(tensors, len(row))

    def _outputs(self, result: ctypes.c_void_p) -> dict[str, np.ndarray]:
        outputs: dict[str, np.ndarray] = {}
        for index in range(self._library.ctxrt_result_outputs(result)):
            tensor = _Tensor()
            self._check(self._library.ctxrt_result_output(result, ctypes.c_size_t(index), ctypes.byref(tensor)))
            shape, dtype = tensor.shape[: tensor.rank], _DTYPES[tensor.dtype]
            data = ctypes.string_at(tensor.data, int(np.prod(shape)) * dtype.itemsize)
            outputs[tensor.name.decode()] = np.frombuffer(data, dtype).reshape(shape)
        self._library.ctxrt_result_free(result)
        return outputs

    def _check(self, status: int) -> None:
        if status:
            raise RuntimeError(self._library.ctxrt_error_message().decode())
