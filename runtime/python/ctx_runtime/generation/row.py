"""One answer as it grows: its tokens, its text, and what ends it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple

import numpy as np

from ctx_runtime.generation.sampling import Sampler, log_softmax
from ctx_runtime.generation.settings import Settings
from ctx_runtime.generation.text_stream import TextStream

FinishReason = Literal["eos", "stop", "length", "cancelled"]
"""The model ended the text, a stop string or a stop id came, there may be no more tokens, or the caller ended it."""


class Token(NamedTuple):
    """One token of an answer.

    Attributes:
        id: of the token.
        text: what is certain of the text now and was not before; empty inside a character or a possible stop string.
        logprob: the natural logarithm of its probability by the model; None unless `logprobs` are asked for.
        top: the likeliest tokens and their logarithms of probability, in descending order.
    """

    id: int
    text: str
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Row:
    """The answer to one prompt.

    Args:
        prompt: its tokens.
        settings: how to answer.
        limit: new tokens, at most.
        ends: the tokens that end a text.
        stream: turns tokens into text; None for a bundle without a tokenizer.

    Attributes:
        answer: the tokens so far.
        finish_reason: None as long as it goes on.
    """

    def __init__(
        self, prompt: list[int], settings: Settings, *, limit: int, ends: Collection[int], stream: TextStream | None
    ) -> None:
        self.prompt, self.limit = prompt, limit
        self.answer: list[Token] = []
        self.finish_reason: FinishReason | None = None
        self._ends, self._stream, self._settings = ends, stream, settings
        self._sampler = Sampler(settings)
        self._seen = list(prompt)

    def accept(self, logits: np.ndarray) -> None:
        """Pick the next token from logits `(vocab,)`, and see whether it is the last one."""
        token = self._sampler.pick(logits, self._seen)
        self._seen.append(token)
        text = self._stream.push(token) if self._stream is not None else ""
        if token in self._ends:
            self.finish_reason = "eos"
        elif token in self._settings.stop_ids or (self._stream is not None and self._stream.stopped):
            self.finish_reason = "stop"
        elif len(self.answer) + 1 == self.limit:
            self.finish_reason = "length"
        if self.finish_reason is not None and self._stream is not None:
            text += self._stream.flush()
        self.answer.append(Token(token, text, *_likelihood(logits, token, self._settings.logprobs)))

    def cancel(self) -> None:
        """End it, if it has not ended; from any thread."""
        if self.finish_reason is None:
            self.finish_reason = "cancelled"

    @property
    def tail(self) -> str:
        """Text that is still held back: of an answer that the caller ended."""
        return self._stream.held if self._stream is not None else ""


def _likelihood(logits: np.ndarray, token: int, top: int | None) -> tuple[float | None, tuple[tuple[int, float], ...]]:
    if top is None:
        return None, ()
    logarithms = log_softmax(logits)
    likeliest: Sequence[int] = np.argsort(-logarithms, kind="stable")[:top].tolist()
    return float(logarithms[token]), tuple((other, float(logarithms[other])) for other in likeliest)
