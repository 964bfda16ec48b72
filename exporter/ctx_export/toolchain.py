"""The versions of what makes a bundle: they stand in its manifest and in the keys of cached stages."""

from __future__ import annotations

import contextlib
import platform
from importlib.metadata import PackageNotFoundError, version

from ctx_runtime import __version__

_PACKAGES = ("torch", "transformers", "onnx", "onnx-ir", "onnxscript", "onnxruntime")


def toolchain() -> dict[str, str]:
    """The versions that make a bundle, by package."""
    versions = {"ctx-export": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions
