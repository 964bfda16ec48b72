"""The Python modules of the two TensorRT libraries, loaded when they are needed."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any, Literal, TypeAlias

from ctx_runtime.errors import BackendError, MissingExtraError

EngineBackend = Literal["tensorrt", "tensorrt-rtx"]
"""The backends that run engines."""
Native: TypeAlias = Any
"""An object of one of the two libraries or of CUDA, which state no types."""
_MODULES: dict[EngineBackend, tuple[str, str]] = {
    "tensorrt": ("tensorrt", "tensorrt"),
    "tensorrt-rtx": ("tensorrt_rtx", "rtx"),
}


def load_library(backend: EngineBackend) -> ModuleType:
    """The module of `backend`: `tensorrt` or `tensorrt_rtx`.

    Raises:
        MissingExtraError: it is not installed.
        BackendError: it is installed and can't be loaded.
    """
    name, extra = _MODULES[backend]
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise MissingExtraError(name, extra, purpose=f"the backend {backend}") from error
    except (ImportError, OSError) as error:
        raise BackendError(f"{name} can't be loaded: {str(error).splitlines()[0]}") from error
