"""Admission by memory: no batch begins that would make the machine swap."""

from __future__ import annotations

import time
from pathlib import Path

from ctx_runtime.errors import MemoryBudgetError

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
            self._read, self._available = now, available_bytes() * (1 - _RESERVE)
        return self._available


def available_bytes(root: Path = Path("/")) -> float:
    """Bytes that this process can take before the machine swaps; infinity where the system does not say.

    The smaller of Linux's `MemAvailable` and what the limit of the process's own control group (version 2) leaves.

    Args:
        root: of the file system.
    """
    known = []
    meminfo = _fields(root / "proc/meminfo")
    if "MemAvailable:" in meminfo:
        known.append(1024 * meminfo["MemAvailable:"])
    group = root / "sys/fs/cgroup"
    limit, used = (_number(group / name) for name in ("memory.max", "memory.current"))
    if limit is not None and used is not None:
        reclaimable = _fields(group / "memory.stat").get("inactive_file", 0)
        known.append(max(limit - used + reclaimable, 0))
    return min(known, default=float("inf"))


def _fields(path: Path) -> dict[str, int]:
    """The lines `name number …` of a file; nothing where it can't be read."""
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdigit()}


def _number(path: Path) -> int | None:
    """The number that a file holds; None where it holds another word, such as `max`."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
