"""What is needed of CUDA beside TensorRT: the device, a stream, memory. Through `cuda-python`, never torch."""

from __future__ import annotations

from types import ModuleType

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


def checked(cuda: ModuleType, result: tuple[Native, ...], doing: str) -> Native:
    """The value of a CUDA call, which gives `(error, value)` or `(error,)`.

    Raises:
        MemoryBudgetError: the device has no memory left.
        BackendError: the call failed otherwise.
    """
    error, *values = result
    if error == cuda.cudaError_t.cudaErrorMemoryAllocation:
        raise MemoryBudgetError(f"{doing}: no device memory left", hint="run shorter inputs or smaller batches")
    if error != cuda.cudaError_t.cudaSuccess:
        raise BackendError(f"{doing}: CUDA says {error.name}")
    return values[0] if values else None


def compute_capability() -> str:
    """The architecture of the current device, `sm89`.

    Raises:
        BackendError: there is no device or no driver.
        MissingExtraError: `cuda-bindings` is not installed.
    """
    cuda = cuda_runtime()
    device = checked(cuda, cuda.cudaGetDevice(), "no CUDA device")
    attribute = cuda.cudaDeviceAttr
    major, minor = (
        checked(cuda, cuda.cudaDeviceGetAttribute(name, device), "no CUDA device")
        for name in (attribute.cudaDevAttrComputeCapabilityMajor, attribute.cudaDevAttrComputeCapabilityMinor)
    )
    return f"sm{major}{minor}"
