"""Prompts -> generations over the buckets of a bundle; the last cache is kept for a prompt that goes on from it."""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence

from ctx_runtime.bundle import Bundle
from ctx_runtime.decoder import DecoderRecord
from ctx_runtime.dispatch import Dispatcher
from ctx_runtime.errors import InputError
from ctx_runtime.generation.chat import ChatTemplate
from ctx_runtime.generation.decoding import Decoding
from ctx_runtime.generation.generation import Batch, Generation
from ctx_runtime.generation.ladder import Ladder
from ctx_runtime.generation.prompts import Prompt, is_batch, read_prompt
from ctx_runtime.generation.row import Row
from ctx_runtime.generation.settings import Settings
from ctx_runtime.generation.tally import GenerationStats, Tally
from ctx_runtime.generation.text_stream import TextStream
from ctx_runtime.manifest import BucketRecord
from ctx_runtime.system_memory import available_bytes
from ctx_runtime.text import Tokenizer


class Generator:
    """Generates with one bundle; every method may be called from several threads.

    Args:
        bundle: of a causal language model.
        decoder: what its manifest says of it.
        sessions: opens its graphs.
        tokenizer: reads texts.
    """

    def __init__(self, bundle: Bundle, decoder: DecoderRecord, sessions: Dispatcher, tokenizer: Tokenizer) -> None:
        self._manifest, self._decoder = bundle.manifest, decoder
        self._sessions, self._tokenizer = sessions, tokenizer
        self._template = ChatTemplate(bundle, tokenizer)
        self._lock = threading.Lock()
        self._kept: Decoding | None = None
        self._tally = Tally()

    @property
    def stats(self) -> GenerationStats:
        """What was generated so far."""
        return self._tally.stats

    def generate(self, prompt: Prompt | Sequence[Prompt], settings: Settings) -> Generation | list[Generation]:
        """One generation, or one for each of several prompts, which run in batches; nothing runs before it is read.

        Raises: as `Runtime.generate`.
        """
        if settings.stops and self._manifest.tokenizer is None:
            raise InputError("stop strings need a tokenizer, which the bundle does not have")
        batched = is_batch(prompt)
        prompts: Sequence[Prompt] = prompt if batched else [prompt]  # type: ignore[assignment, list-item]
        texts = [read_prompt(one, self._tokenizer, self._template, self._decoder.vocab_size) for one in prompts]
        most = min(bucket.batch.max for bucket in self._manifest.buckets)
        groups = [texts[start : start + most] for start in range(0, len(texts), most)]
        generations = [generation for group in groups for generation in self._plan(group, settings)]
        return generations if batched else generations[0]

    def ladder(self, rows: int) -> Ladder:
        """The buckets for so many rows at once, and the memory that the system has for them now.

        A row alone may have that of the kept cache too: it goes on from it, or takes its place.
        """
        available, kept = available_bytes(), self._kept
        if available is not None and kept is not None and rows == 1:
            available += kept.cache.nbytes
        return Ladder(self._manifest, rows, available)

    def close(self) -> None:
        """Let go of the kept cache."""
        self._swap(None)

    def _plan(self, texts: Sequence[list[int]], settings: Settings) -> list[Generation]:
        """Choose the bucket of a batch; its memory is taken with its first step."""
        ladder = self.ladder(len(texts))
        longest = max(map(len, texts))
        bucket, reason = ladder.choose(longest, settings.max_new_tokens)
        if not all(texts):
            raise InputError("a prompt is empty", hint="give at least one token")
        rows = [
            Row(
                text,
                settings,
                limit=settings.max_new_tokens or ladder.limit(len(text)),
                ends=self._decoder.eos_token_ids,
                stream=self._stream(text, settings),
            )
            for text in texts
        ]
        begin = functools.partial(self._begin, ladder, bucket, texts)
        batch = Batch(rows, begin, self._end, reason, self._tally)
        return [Generation(batch, row, has_text=self._manifest.tokenizer is not None) for row in rows]

    def _stream(self, text: list[int], settings: Settings) -> TextStream | None:
        if self._manifest.tokenizer is None:
            return None
        return TextStream(self._tokenizer.stream(text), settings.stops)

    def _begin(self, ladder: Ladder, bucket: BucketRecord, texts: Sequence[list[int]]) -> Decoding:
        """Go on from the kept cache as far as the only row has the same tokens, else from an empty one."""
        kept = self._swap(None) if len(texts) == 1 else None
        if kept is not None and kept.bucket.network == bucket.network and _reuse(kept, texts[0]):
            larger = max(kept.bucket, bucket, key=lambda one: one.max_length)
            return Decoding(self._decoder, self._sessions, ladder, larger, kept.cache)
        del kept  # before memory for another is asked for
        return Decoding(self._decoder, self._sessions, ladder, bucket)

    def _end(self, decoding: Decoding) -> None:
        if len(decoding.cache.tokens) == 1:
            self._swap(decoding)

    def _swap(self, decoding: Decoding | None) -> Decoding | None:
        with self._lock:
            kept, self._kept = self._kept, decoding
        return kept


def _reuse(kept: Decoding, text: Sequence[int]) -> bool:
    """Cut the kept text to what `text` begins with; whether anything is left.

    At least the last token of `text` is left to be run: its logits are wanted. A cache that old tokens have left holds
    the whole of its text or nothing.
    """
    (cached,) = kept.cache.tokens
    shared = next(
        (at for at, (a, b) in enumerate(zip(cached, text, strict=False)) if a != b), min(len(cached), len(text))
    )
    shared = min(shared, len(text) - 1)
    if shared < len(cached) and len(cached) > kept.cache.capacity:
        return False
    del cached[shared:]
    return shared > 0
