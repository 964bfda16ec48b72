"""What a caller holds while text is generated, and the batch behind it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from ctx_runtime.errors import InputError
from ctx_runtime.generation.decoding import Decoding
from ctx_runtime.generation.row import FinishReason, Row, Token
from ctx_runtime.generation.tally import Tally


class GenerationDispatch(NamedTuple):
    """How one text was generated.

    Attributes:
        prompt_tokens: of the prompt.
        reused_tokens: how many of them were cached by the call before.
        new_tokens: of the answer.
        buckets: the names of the buckets that it went through.
        backend: what ran it.
        cache_bytes: of the KV cache at the end, all rows of the batch together.
        prefill_ms: wall time of the prompt, in milliseconds; that of opening the session too, where it was not open.
        decode_ms: wall time of the steps after it, which the batch shares.
        reason: why it began in the first bucket.
    """

    prompt_tokens: int
    reused_tokens: int
    new_tokens: int
    buckets: tuple[str, ...]
    backend: str
    cache_bytes: int
    prefill_ms: float
    decode_ms: float
    reason: str

    @property
    def prefill_tokens_per_second(self) -> float:
        """Tokens of the prompt that were run, per second; 0 if none were."""
        return _rate(self.prompt_tokens - self.reused_tokens, self.prefill_ms)

    @property
    def decode_tokens_per_second(self) -> float:
        """Tokens of the answer per second, the first aside: it comes of the prompt; 0 if there are no others."""
        return _rate(max(self.new_tokens - 1, 0), self.decode_ms)


def _rate(tokens: int, ms: float) -> float:
    return tokens / ms * 1e3 if ms else 0.0


class Batch:
    """Rows that are generated together over one cache, one step at a time, as their callers ask for tokens.

    Args:
        rows: the answers.
        begin: takes the cache; called before the first step.
        end: takes the cache back once all rows have ended without an error.
        reason: why they begin in the first bucket.
        tally: counts what they run.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        begin: Callable[[], Decoding],
        end: Callable[[Decoding], None],
        reason: str,
        tally: Tally,
    ) -> None:
        self.rows = rows
        self._begin, self._end, self._reason, self._tally = begin, end, reason, tally
        self._lock = threading.Lock()
        self._decoding: Decoding | None = None
        self._error: BaseException | None = None
        self._reused = 0
        self._prefill_ms, self._decode_ms = [0.0] * len(rows), [0.0] * len(rows)
        self._outcome: tuple[tuple[str, ...], str, int] = ((), "", 0)

    def reach(self, row: Row, count: int) -> bool:
        """Generate until a row has `count` tokens; whether it ever has so many.

        Raises:
            CtxError: a step failed, now or before.
        """
        with self._lock:
            while len(row.answer) < count and row.finish_reason is None:
                self._advance()
        return len(row.answer) >= count

    def cancel(self, row: Row) -> None:
        """End a row; a step that is under way is waited for."""
        row.cancel()
        with self._lock:
            self._settle()

    def dispatch(self, row: Row) -> GenerationDispatch:
        """How a row was generated."""
        index = next(index for index, other in enumerate(self.rows) if other is row)
        return GenerationDispatch(
            len(row.prompt), self._reused, len(row.answer), *self._outcome,
            self._prefill_ms[index], self._decode_ms[index], self._reason,
        )  # fmt: skip

    def _advance(self) -> None:
        """One token for every row that goes on; what fails gives the cache back to nobody."""
        if self._error is not None:
            raise self._error
        try:
            if self._decoding is None:
                self._decoding = self._begin()
                self._prefill(self._decoding)
            else:
                self._step(self._decoding)
            self._note(self._decoding)
        except BaseException as error:
            self._error, self._decoding = error, None
            raise
        self._settle()

    def _prefill(self, decoding: Decoding) -> None:
        self._reused = len(decoding.cache.tokens[0])
        self._tally.count(reused=self._reused)
        for index, row in enumerate(self.rows):
            started = time.perf_counter()
            while (done := len(decoding.cache.tokens[index])) < len(row.prompt) and row.finish_reason is None:
                chunk = row.prompt[done : done + decoding.room(index)]
                logits = decoding.extend(index, chunk)
                self._tally.count(prompt=len(chunk))
            if row.finish_reason is None:
                row.accept(logits)
                self._tally.count(new=1)
            self._prefill_ms[index] = (time.perf_counter() - started) * 1e3

    def _step(self, decoding: Decoding) -> None:
        started = time.perf_counter()
        running = [index for index, row in enumerate(self.rows) if row.finish_reason is None]
        logits = decoding.step([row.answer[-1].id if index in running else None for index, row in enumerate(self.rows)])
        for index in running:
            if self.rows[index].finish_reason is None:
                self.rows[index].accept(logits[index])
                self._tally.count(new=1)
        elapsed = (time.perf_counter() - started) * 1e3
        for index in running:
            self._decode_ms[index] += elapsed

    def _note(self, decoding: Decoding) -> None:
        self._tally.count(moves=len(decoding.visited) - max(1, len(self._outcome[0])))
        self._outcome = tuple(decoding.visited), decoding.backend, decoding.cache.nbytes

    def _settle(self) -> None:
        """Let go of the cache once no row goes on."""
        if self._decoding is not None and all(row.finish_reason is not None for row in self.rows):
            decoding, self._decoding = self._decoding, None
            self._end(decoding)


class Generation:
    """A text that is generated as it is asked for.

    Iterate it for its tokens as they come, as often as you like. `tokens`, `text`, `finish_reason` and `dispatch` run
    what is left of it first; `cancel` ends it where it is. One that is no longer held costs nothing.

    ::

        for token in runtime.generate("Call me", max_new_tokens=20):
            print(token.text, end="", flush=True)
    """

    def __init__(self, batch: Batch, row: Row, *, has_text: bool) -> None:
        """Use `Runtime.generate`."""
        self._batch, self._row, self._has_text = batch, row, has_text

    def __iter__(self) -> Iterator[Token]:
        index = 0
        while self._batch.reach(self._row, index + 1):
            yield self._row.answer[index]
            index += 1

    @property
    def tokens(self) -> list[int]:
        """The ids of the answer, the one that ends the text included."""
        return [token.id for token in self._finished.answer]

    @property
    def text(self) -> str:
        """The text of the answer, without special tokens and without the stop string.

        Raises:
            InputError: the bundle has no tokenizer.
        """
        if not self._has_text:
            raise InputError("the bundle has no tokenizer to make text of tokens", hint="read `tokens`")
        return "".join(token.text for token in self._finished.answer) + self._row.tail

    @property
    def finish_reason(self) -> FinishReason:
        """What ended the answer."""
        reason = self._finished.finish_reason
        assert reason is not None  # noqa: S101 (it has ended)
        return reason

    @property
    def dispatch(self) -> GenerationDispatch:
        """The buckets, the time and the memory that it took."""
        return self._batch.dispatch(self._finished)

    def cancel(self) -> None:
        """End the answer where it is; from any thread, and more than once. A step that is under way is waited for."""
        self._batch.cancel(self._row)

    @property
    def _finished(self) -> Row:
        self._batch.reach(self._row, self._row.limit + 1)
        return self._row
