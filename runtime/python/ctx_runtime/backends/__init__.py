"""Backends: what opens a graph or an engine of a bundle and runs it.

A backend is a `Session`; `ctx_runtime.backends.opening` picks the class by the backend's name. Errors of the library
below leave as `BackendError`, with the library's own words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

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


@runtime_checkable
class InPlaceSession(Session, Protocol):
    """A session that can run over arrays in place, as the steps of a generation do."""

    def bind(
        self, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray], *, bucket: str
    ) -> Callable[[], None]:
        """A run over contiguous arrays that stay, read and written in place each time it is called.

        The same memory may be an input and an output. A call raises as `run` does.
        """
        ...
