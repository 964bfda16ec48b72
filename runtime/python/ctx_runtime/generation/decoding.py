"""Runs the graphs of a decoder over one KV cache, in place, and moves through the buckets as the cache fills."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ctx_runtime.backends import InPlaceSession, Session
from ctx_runtime.decoder import DecoderRecord
from ctx_runtime.dispatch import Dispatcher
from ctx_runtime.errors import BackendError
from ctx_runtime.generation.cache import KVCache
from ctx_runtime.generation.feeds import Chunk, attention_feeds, grouped_feeds, slots_in_order
from ctx_runtime.generation.ladder import Ladder
from ctx_runtime.generation.ring import held_positions, retired_slot, write_slot
from ctx_runtime.manifest import BucketRecord


@dataclass(frozen=True)
class _Bound:
    """A step of one shape, prepared once: its inputs and logits lie in arrays that stay.

    Attributes:
        session: runs it.
        first: the row that it begins with.
        shape: `(rows, length)` of its tokens.
        inputs: what is filled before each run, the cache aside.
        logits: what the last run gave, `(rows, vocab)`.
        run: runs it over `inputs`, the cache and `logits`, in place.
    """

    session: Session
    first: int
    shape: tuple[int, ...]
    inputs: Mapping[str, np.ndarray]
    logits: np.ndarray
    run: Callable[[], None]


class Decoding:
    """The texts of some rows, as far as they are cached, and where they are in the buckets.

    A cache that has filled its bucket moves to the next one. Where that runs another network or scales its positions
    otherwise, cached keys are of no use: the text is run again. Beyond the largest bucket each new token takes the
    place of the oldest that is no attention sink.

    Args:
        decoder: what the graphs are.
        sessions: opens them.
        ladder: the buckets.
        bucket: where to begin.
        cache: what to go on from, of the same network; None: nothing yet.

    Attributes:
        visited: the names of the buckets so far, in order.
        backend: what ran last.
    """

    def __init__(
        self,
        decoder: DecoderRecord,
        sessions: Dispatcher,
        ladder: Ladder,
        bucket: BucketRecord,
        cache: KVCache | None = None,
    ) -> None:
        self._decoder, self._sessions, self._ladder = decoder, sessions, ladder
        self.bucket = bucket
        self.cache = cache or KVCache(decoder, rows=ladder.rows, capacity=bucket.max_length)
        if self.cache.capacity < bucket.max_length:
            self.cache.grow(bucket.max_length)
        self.visited = [bucket.name]
        self.backend = ""
        self._bound: _Bound | None = None

    def room(self, row: int) -> int:
        """How many tokens of a prompt the next `extend` may take: a chunk, or one at a time once the cache is full."""
        return max(1, min(self._decoder.chunk, self.cache.capacity - len(self.cache.tokens[row])))

    def extend(self, row: int, ids: Sequence[int]) -> np.ndarray:
        """The logits `(vocab,)` after `ids`, at most `room(row)` tokens, which are cached behind those of the row.

        They are overwritten by the next run.
        """
        logits: np.ndarray = self._run(row, [ids])[0]
        self.cache.tokens[row] += ids
        return logits

    def step(self, tokens: Sequence[int | None]) -> np.ndarray:
        """The logits `(rows, vocab)` after one more token of each row; None for a row that has ended.

        They are overwritten by the next run.
        """
        running = {row: token for row, token in enumerate(tokens) if token is not None}
        longest = max(len(self.cache.tokens[row]) for row in running)
        larger = self._ladder.after(self.bucket)
        if larger is not None:
            self._approach(larger, self.cache.capacity - longest)
        logits = self._run(0, [[0 if token is None else token] for token in tokens])
        for row, token in running.items():
            self.cache.tokens[row].append(token)
        return logits

    def _approach(self, larger: BucketRecord, left: int) -> None:
        """Move to the next bucket if this one has no slots left; take its buffers layer by layer before that."""
        if left == 0:
            self._move(larger)
        elif larger.network == self.bucket.network and left <= self.cache.decoder.layers:
            self.cache.prepare(larger.max_length)

    def _move(self, larger: BucketRecord) -> None:
        same = larger.network == self.bucket.network
        self.bucket, self._bound = larger, None
        self.visited.append(larger.name)
        if same:
            self.cache.grow(larger.max_length)
            return
        texts = self.cache.tokens
        self.cache = KVCache(self._decoder, rows=len(texts), capacity=larger.max_length)
        for row, text in enumerate(texts):
            while waiting := text[len(self.cache.tokens[row]) :]:
                self.extend(row, waiting[: self.room(row)])

    def _run(self, first: int, rows: Sequence[Sequence[int]]) -> np.ndarray:
        """Run equally many tokens of `len(rows)` rows from `first` on, over their part of the cache."""
        feeds = self._feeds(first, rows)
        shape = feeds["input_ids"].shape
        with self._sessions.session(self.bucket, "masked") as session:
            bound = self._bound
            if bound is None or (bound.session, bound.first, bound.shape) != (session, first, shape):
                bound = self._bound = self._bind(session, first, feeds)
            for name, array in bound.inputs.items():
                array[...] = feeds[name]
            bound.run()
        return bound.logits

    def _feeds(self, first: int, rows: Sequence[Sequence[int]]) -> dict[str, np.ndarray]:
        """What a graph takes for these tokens; in the form `gqa`, makes room for them in full rows."""
        cached = [len(tokens) for tokens in self.cache.tokens[first : first + len(rows)]]
        capacity, sinks = self.cache.capacity, self._decoder.sinks
        ids, starts = np.array(rows, np.int64), np.array(cached, np.int64)
        lengths = np.full(len(rows), ids.shape[1], np.int64)
        if self._decoder.form == "gqa":
            if self._ladder.slides:
                for row, length in enumerate(cached, first):
                    if length >= capacity:
                        self.cache.copy_last(row, retired_slot(length - 1, capacity=capacity, sinks=sinks))
            return grouped_feeds(Chunk(ids, lengths, starts, np.minimum(starts, capacity - 1)))
        slots = [write_slot(start, capacity=capacity, sinks=sinks) for start in cached]
        chunk = Chunk(ids, lengths, starts, np.array(slots, np.int64))
        if max(cached) < capacity:
            held = slots_in_order(chunk, capacity)
        else:
            held = held_positions(starts + lengths, capacity=capacity, sinks=sinks)
        return attention_feeds(chunk, held, self._decoder.sliding_window)

    def _bind(self, session: Session, first: int, feeds: Mapping[str, np.ndarray]) -> _Bound:
        if not isinstance(session, InPlaceSession):
            raise BackendError(
                f"{self.bucket.name}: {session.backend} can't run over a KV cache in place",
                hint="name an onnxruntime backend",
            )
        shape = feeds["input_ids"].shape
        inputs = {name: array.copy() for name, array in feeds.items() if name in session.inputs}
        cache = {slot: buffer[first : first + shape[0]] for slot, buffer in self.cache.buffers.items()}
        logits = np.empty((shape[0], self._decoder.vocab_size), np.float32)
        run = session.bind(
            inputs | {f"past_{slot}": buffer for slot, buffer in cache.items()},
            {"logits": logits} | {f"present_{slot}": buffer for slot, buffer in cache.items()},
            bucket=self.bucket.name,
        )
        self.backend = session.backend
        return _Bound(session, first, shape, inputs, logits, run)
