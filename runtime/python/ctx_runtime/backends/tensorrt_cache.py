"""Kernels that TensorRT-RTX compiled on this device, kept so that the next start does not compile them again.

The cache lies in the user's own cache folder, not beside the bundle: it is native code, and an archive must not be able
to bring it along. The library itself refuses one of another version, device or driver.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from types import ModuleType

from ctx_runtime.backends.tensorrt_library import Native
from ctx_runtime.bundle import Bundle
from ctx_runtime.cache_folder import cache_root
from ctx_runtime.manifest import EngineRecord


class KernelCache:
    """The runtime cache of one engine.

    Args:
        bundle: the engine's bundle.
        record: the engine; its file's hash names the cache.
        trt: the module of TensorRT-RTX.
    """

    def __init__(self, bundle: Bundle, record: EngineRecord, trt: ModuleType) -> None:
        digest = next(file.sha256 for file in bundle.manifest.files if file.path == record.file)
        self._path = cache_root() / "tensorrt-rtx" / f"{digest}-{trt.__version__}.kernels"
        self._cache: Native = None

    def attach(self, config: Native) -> None:
        """Let the context of `config` take its kernels from the cache, and put new ones in."""
        if self._cache is None:
            self._cache = config.create_runtime_cache()
            with contextlib.suppress(OSError):  # no cache yet
                self._cache.deserialize(self._path.read_bytes())
        config.set_runtime_cache(self._cache)

    def save(self) -> None:
        """Write the cache, whole or not at all; without a place for it, kernels are compiled again."""
        if self._cache is None:
            return
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor, partial = tempfile.mkstemp(prefix=".partial-", dir=self._path.parent)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(self._cache.serialize())
                Path(partial).replace(self._path)
            finally:
                Path(partial).unlink(missing_ok=True)
