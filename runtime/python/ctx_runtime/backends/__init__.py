"""Backends: what opens a graph or an engine of a bundle and runs it.

A backend is a `Session`; `ctx_runtime.backends.opening` picks the class by the backend's name. Errors of the library
below leave as `BackendError`, with the library's own words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from ctx_runtime.resource_profile import BackendName


class Session(Protocol):
    """One opened graph or engine. `run` may be called from several threads at once."""

    @property
    def backend(self) -> BackendName:
        """The backend that runs it."""
        ...

    @property
    def inputs(self) -> frozenset[str]:
        """The names that it takes; the mask is absent from a mask-free graph."""
        ...

    @property
    def resident_bytes(self) -> int:
        """Private memory that it keeps while open, an estimate: what the byte budget counts."""
        ...

    def run(self, feeds: Mapping[str, np.ndarray], *, bucket: str) -> dict[str, np.ndarray]:
        """Run `feeds` with the resources of `bucket`; every output by name.

        Raises:
            BackendError: the library below refuses the feeds or fails.
            MemoryBudgetError: the library below has no memory left.
        """
        ...

    def close(self) -> None:
        """Give everything back; a closed session is not run again."""
        ...
