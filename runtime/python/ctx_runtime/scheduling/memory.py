"""Admission by memory: no batch begins that would make the machine swap."""

from __future__ import annotations

import time

from ctx_runtime.errors import MemoryBudgetError
from ctx_runtime.system_memory import available_bytes

_RESERVE = 0.05
"""Share of what is available that is left to others."""
_FRESH_S = 0.1
"""What the machine says is believed for so long: reading it takes longer than dispatching a batch."""


class MemoryGate:
    """Counts the estimates of the batches that run. Not for several threads at once.

    Args:
        limit: bytes that they may take together; None: what the machine has available.

    Attributes:
        taken: bytes of those that run now.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._read, self._available = float("-inf"), 0.0
        self.taken = 0

    def room(self) -> float:
        """Bytes that one more batch may take now."""
        if self._limit is not None:
            return self._limit - self.taken
        return self._on_machine() - self.taken

    def refusal(self, needed: int) -> MemoryBudgetError | None:
        """The error of a job of `needed` bytes that would not fit even if nothing else ran."""
        most = self._limit if self._limit is not None else self._on_machine() + self.taken
        if needed <= most:
            return None
        return MemoryBudgetError(
            f"an input needs about {needed} bytes for intermediate results, {int(most)} are available",
            hint="shorten it, raise memory_limit, or give the machine more memory",
        )

    def _on_machine(self) -> float:
        now = time.monotonic()
        if now - self._read > _FRESH_S:
            available = available_bytes()
            self._read, self._available = now, float("inf") if available is None else available * (1 - _RESERVE)
        return self._available
