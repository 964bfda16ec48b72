"""Tokens -> text as they come: never half a character, never the beginning of a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence


class TextStream:
    """The text of one answer.

    Args:
        decode: gives the text that a token completes: nothing where a character is still unfinished.
        stops: texts that end the answer, and do not belong to it.

    Attributes:
        held: text that may still become a stop string.
        stopped: a stop string has come.
    """

    def __init__(self, decode: Callable[[int], str], stops: Sequence[str]) -> None:
        self._decode, self._stops = decode, stops
        self.held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """The text that is certain once `token` has come; what may be the beginning of a stop string is held back."""
        text = self.held + self._decode(token)
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.stopped, self.held = True, ""
            return text[: min(found)]
        certain = len(text) - self._longest_beginning(text)
        self.held = text[certain:]
        return text[:certain]

    def flush(self) -> str:
        """What was held back, once no more tokens come."""
        held, self.held = self.held, ""
        return held

    def _longest_beginning(self, text: str) -> int:
        """How many of the last characters of `text` may begin a stop string."""
        sizes = (size for stop in self._stops for size in range(1, len(stop)) if text.endswith(stop[:size]))
        return max(sizes, default=0)
