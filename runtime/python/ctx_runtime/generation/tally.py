"""What a bundle has generated so far."""

from __future__ import annotations

import threading
from dataclasses import dataclass


@dataclass(frozen=True)
class GenerationStats:
    """What was generated so far.

    Attributes:
        prompt_tokens: of prompts that were run.
        reused_tokens: of prompts that were cached by the call before, and not run.
        new_tokens: of answers.
        moves: of a cache from one bucket to the next while a text grew in it.
    """

    prompt_tokens: int = 0
    reused_tokens: int = 0
    new_tokens: int = 0
    moves: int = 0


class Tally:
    """Counts; from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stats = GenerationStats()

    def count(self, *, prompt: int = 0, reused: int = 0, new: int = 0, moves: int = 0) -> None:
        """Add to what is counted, each in tokens but the moves."""
        with self._lock:
            so_far = self._stats
            self._stats = GenerationStats(
                so_far.prompt_tokens + prompt,
                so_far.reused_tokens + reused,
                so_far.new_tokens + new,
                so_far.moves + moves,
            )

    @property
    def stats(self) -> GenerationStats:
        """So far."""
        return self._stats
