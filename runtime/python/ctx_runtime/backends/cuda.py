"""What is needed of CUDA beside TensorRT: the device, a stream, buffers. Through `cuda-bindings`, never torch."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from ctx_runtime.backends.tensorrt_library import Native
from ctx_runtime.errors import BackendError, MemoryBudgetError, MissingExtraError


def cuda_runtime() -> ModuleType:
    """The module `cuda.bindings.runtime`.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        from cuda.bindings import runtime  # noqa: PLC0415 (optional)
    except ImportError as error:
        raise MissingExtraError("cuda-bindings", "rtx", purpose="running an engine") from error
    module: ModuleType = runtime
    return module


def compute_capability() -> str:
    """The architecture of the current device, `sm89`.

    Raises:
        BackendError: there is no device or no driver.
        MissingExtraError: `cuda-bindings` is not installed.
    """
    cuda = cuda_runtime()
    device = _checked(cuda, cuda.cudaGetDevice(), "no CUDA device")
    attribute = cuda.cudaDeviceAttr
    major, minor = (
        _checked(cuda, cuda.cudaDeviceGetAttribute(name, device), "no CUDA device")
        for name in (attribute.cudaDevAttrComputeCapabilityMajor, attribute.cudaDevAttrComputeCapabilityMinor)
    )
    return f"sm{major}{minor}"


class DeviceMemory:
    """A stream, and buffers by name that grow and are reused; copies are in the order of the stream.

    Raises:
        BackendError: a CUDA call failed.
        MemoryBudgetError: the device has no memory left.
    """

    def __init__(self) -> None:
        self._cuda = cuda_runtime()
        self._buffers: dict[str, tuple[int, int]] = {}
        self.stream = int(self._call(self._cuda.cudaStreamCreate(), "no stream"))

    @property
    def total_bytes(self) -> int:
        """What all buffers take."""
        return sum(size for _, size in self._buffers.values())

    def reserve(self, name: str, size_bytes: int) -> int:
        """The address of a buffer of at least `size_bytes`; what an older, smaller one held is lost."""
        address, size = self._buffers.get(name, (0, 0))
        if size < size_bytes or not address:
            self._release(name)
            size = max(1, size_bytes)
            address = int(self._call(self._cuda.cudaMalloc(size), f"{size} bytes for {name}"))
            self._buffers[name] = address, size
        return address

    def upload(self, name: str, array: np.ndarray) -> int:
        """Copy the contiguous `array` into the buffer `name`; its address. The array must stay until `wait`."""
        address = self.reserve(name, array.nbytes)
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call(self._cuda.cudaMemcpyAsync(address, array.ctypes.data, array.nbytes, kind, self.stream), name)
        return address

    def download(self, name: str, array: np.ndarray) -> None:
        """Copy the beginning of the buffer `name` over `array`, complete after `wait`."""
        kind, address = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost, self._buffers[name][0]
        self._call(self._cuda.cudaMemcpyAsync(array.ctypes.data, address, array.nbytes, kind, self.stream), name)

    def wait(self) -> None:
        """Wait for everything in the stream."""
        self._call(self._cuda.cudaStreamSynchronize(self.stream), "the device failed")

    def free(self) -> None:
        """Give every buffer and the stream back."""
        for name in list(self._buffers):
            self._release(name)
        if self.stream:
            self._call(self._cuda.cudaStreamDestroy(self.stream), "the stream")
            self.stream = 0

    def _release(self, name: str) -> None:
        address, _ = self._buffers.pop(name, (0, 0))
        if address:
            self._call(self._cuda.cudaFree(address), name)

    def _call(self, result: tuple[Native, ...], doing: str) -> Native:
        return _checked(self._cuda, result, doing)


def _checked(cuda: ModuleType, result: tuple[Native, ...], doing: str) -> Native:
    """The value of a CUDA call, which gives `(error, value)` or `(error,)`."""
    error, *values = result
    if error == cuda.cudaError_t.cudaErrorMemoryAllocation:
        raise MemoryBudgetError(f"{doing}: no device memory left", hint="run shorter inputs or smaller batches")
    if error != cuda.cudaError_t.cudaSuccess:
        raise BackendError(f"{doing}: CUDA says {error.name}")
    return values[0] if values else None
