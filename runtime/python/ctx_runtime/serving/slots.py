"""How many texts are generated at once: a few wait for their turn, the rest is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from ctx_runtime.errors import DeadlineError, OverloadError

_RETRY_AFTER_S = 1.0


class Slots:
    """Turns, first come, first served; used in the event loop.

    Args:
        running: so many have their turn at once.
        waiting: so many wait, at most.
        timeout_s: so long, at most.
    """

    def __init__(self, *, running: int, waiting: int, timeout_s: float) -> None:
        self._free = asyncio.Semaphore(running)
        self._most_waiting, self._timeout_s = waiting, timeout_s
        self.waiting = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn, and hold it.

        Raises:
            OverloadError: too many wait already.
            DeadlineError: no turn came in time.
        """
        await self._acquire()
        try:
            yield
        finally:
            self._free.release()

    async def _acquire(self) -> None:
        if self._free.locked() and self.waiting >= self._most_waiting:
            raise OverloadError(f"{self.waiting} prompts wait already", retry_after_s=_RETRY_AFTER_S)
        self.waiting += 1
        try:
            with anyio.fail_after(self._timeout_s):
                await self._free.acquire()
        except TimeoutError:
            raise DeadlineError(f"no turn came within {self._timeout_s:g} s") from None
        finally:
            self.waiting -= 1
