"""The error of length-adaptive models."""

from __future__ import annotations


class ModelError(Exception):
    """A model, sub-network, policy or file that can't be: `str(error)` is one line that says what is wrong.

    Attributes:
        hint: one line that says what to do, or None.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint
