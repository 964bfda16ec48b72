"""What an application holds: open a bundle, run inputs of any length, generate text, ask why, close."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from copy import copy
from types import TracebackType
from typing import TYPE_CHECKING, overload

import numpy as np
from numpy.typing import ArrayLike

from ctx_runtime.batching import Job, form_batches
from ctx_runtime.bundle import Bundle
from ctx_runtime.dispatch import Dispatcher
from ctx_runtime.errors import InputError, QualityError, TooLongError
from ctx_runtime.fusing import Fuser
from ctx_runtime.generation.generation import Generation
from ctx_runtime.generation.generator import Generator
from ctx_runtime.generation.prompts import Prompt
from ctx_runtime.generation.settings import Settings
from ctx_runtime.manifest import BucketRecord, Manifest
from ctx_runtime.padding import Row, RowLayout
from ctx_runtime.parity import Form
from ctx_runtime.resource_profile import BackendName, ShareWeights
from ctx_runtime.results import BucketStats, Dispatch, Explanation, Result, Stats
from ctx_runtime.segmenting import SegmentPlan, find_framing, fuse, plan_segments
from ctx_runtime.text import Tokenizer

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ctx_runtime.generation.settings import Options

Inputs = Mapping[str, ArrayLike]


class Runtime:
    """An opened bundle. Every method may be called from several threads at once.

    ::

        with Runtime.open("minilm.bundle") as runtime:
            result = runtime.run_text("Call me Ishmael.")
            result.outputs["sentence_embedding"]  # (384,)
            result.dispatch[0].bucket  # "ctx-32"
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        share_weights: ShareWeights | None = None,
        session_budget: int | None = None,
        backends: Sequence[BackendName] | None = None,
        min_quality: float | None = None,
    ) -> None:
        """Use `Runtime.open`, which takes a path."""
        self.bundle = bundle
        if min_quality is not None and not bundle.manifest.quality:
            raise QualityError("the bundle has no table of quality", hint="build it from a model that was evaluated")
        self._dispatcher = Dispatcher(
            bundle,
            backends=backends,
            share_weights=share_weights or bundle.manifest.share_weights,
            session_budget=bundle.manifest.session_budget if session_budget is None else session_budget,
            min_quality=bundle.manifest.min_quality if min_quality is None else min_quality,
        )
        self._layout = RowLayout(bundle.manifest.inputs, bundle.manifest.outputs)
        self._longest = bundle.manifest.max_length
        fusion = bundle.manifest.fusion
        fuses = fusion is not None and bundle.manifest.overflow.policy == "segment"
        self._fuser = Fuser(bundle.manifest, fusion, self._dispatcher, self._layout) if fusion and fuses else None
        self._alone: Form = "masked" if self._layout.mask is None else "unmasked"
        self._tokenizer = Tokenizer(bundle)
        decoder = bundle.manifest.decoder
        self._generator = Generator(bundle, decoder, self._dispatcher, self._tokenizer) if decoder else None
        self._names = {bucket.max_length: bucket.name for bucket in bundle.manifest.buckets}
        self._stats = {name: BucketStats() for name in self._names.values()}
        self._stats_lock = threading.Lock()

    @classmethod
    def open(
        cls,
        bundle: str | os.PathLike[str] | Bundle,
        *,
        share_weights: ShareWeights | None = None,
        session_budget: int | None = None,
        backends: Sequence[BackendName] | None = None,
        min_quality: float | None = None,
    ) -> Runtime:
        """Verify a bundle and hold it; graphs are opened on first use.

        Args:
            bundle: the bundle's folder.
            share_weights: `mmap` maps repacked weights from a cache on this device, `off` copies them into each
                session; by default what the bundle says.
            session_budget: bytes of private memory that open sessions may take together; by default what the bundle
                says.
            backends: in order of preference, for every bucket; by default what each bucket says.
            min_quality: an input runs in the smallest bucket that is known to be at least this good at its length, in
                the metric of the bundle's table of quality; by default what the bundle says.

        Raises:
            BundleError: the folder is not a sound bundle.
            QualityError: `min_quality` is given, and the bundle has no table of quality.
        """
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        return cls(
            opened,
            share_weights=share_weights,
            session_budget=session_budget,
            backends=backends,
            min_quality=min_quality,
        )

    def __enter__(self) -> Runtime:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @overload
    def run(self, inputs: Inputs) -> Result: ...
    @overload
    def run(self, inputs: Sequence[Inputs]) -> list[Result]: ...

    def run(self, inputs: Inputs | Sequence[Inputs]) -> Result | list[Result]:
        """Run arrays of any length.

        Args:
            inputs: arrays `(batch, length, …)` by name, or `(length, …)` for a single row; a mask says where shorter
                rows end. Or a list of these: the runtime batches them.

        Raises:
            InputError: a name, dtype, shape or value that the bundle does not take.
            TooLongError: longer than the bundle takes, where its overflow policy is `error`.
            MemoryBudgetError: more memory than the resource profile allows.
            TimeBudgetError: more time than the resource profile allows.
            QualityError: no bucket is known to be good enough at this length.
            BackendError: no backend can serve the bucket.
        """
        if self._generator is not None:
            raise InputError(f"{self._manifest.name} generates text and has no other outputs", hint="use generate")
        if isinstance(inputs, (dict, Mapping)):  # a dict is told at once, an abstract class takes its time
            rows, batched = self._layout.read(inputs)
            return self._joined(self._run_rows(rows), batched)
        groups = [self._layout.read(item) for item in inputs]
        answers = iter(self._run_rows([row for rows, _ in groups for row in rows]))
        return [self._joined([next(answers) for _ in rows], batched) for rows, batched in groups]

    @overload
    def run_text(self, text: str) -> Result: ...  # type: ignore[overload-overlap]
    @overload
    def run_text(self, text: Sequence[str]) -> list[Result]: ...

    def run_text(self, text: str | Sequence[str]) -> Result | list[Result]:
        """Run text through the bundle's tokenizer, never truncated; see `run`.

        Raises:
            InputError: the bundle has no tokenizer.
            MissingExtraError: the package `tokenizers` is not installed.
        """
        if isinstance(text, str):
            return self.run(self._tokenizer.encode(text))
        return self.run([self._tokenizer.encode(part) for part in text])

    @overload
    def generate(self, prompt: Prompt, **options: Unpack[Options]) -> Generation: ...  # type: ignore[overload-overlap]
    @overload
    def generate(self, prompt: Sequence[Prompt], **options: Unpack[Options]) -> list[Generation]: ...

    def generate(self, prompt: Prompt | Sequence[Prompt], **options: Unpack[Options]) -> Generation | list[Generation]:
        """Answer a prompt; what is returned is iterated for tokens as they come. Nothing runs before that.

        Args:
            prompt: a text, messages for the chat template, or token ids; or a list of these, which run in batches.
            options: the fields of `ctx_runtime.generation.settings.Settings`; by default the likeliest tokens are
                taken until the model ends the text.

        Raises:
            InputError: the bundle does not generate, or has no tokenizer or template for this prompt; a bad option.
            TooLongError: prompt and answer are longer than the bundle takes, where its overflow policy is `error`.
            MemoryBudgetError: a KV cache larger than the resource profile allows.
            MissingExtraError: `tokenizers`, or `jinja2` for messages, is not installed.
        """
        if self._generator is None:
            raise InputError(f"{self._manifest.name} does not generate text", hint="use run or run_text")
        return self._generator.generate(prompt, Settings(**options))

    def explain(self, length: int, *, batch: int = 1) -> Explanation:
        """Where `batch` rows of `length` tokens would run, and why. Opens the session to know its backend.

        A long input is taken to be framed by the bundle's special tokens, as `run_text` gives it.

        Raises:
            InputError: a length below 1.
            TooLongError, MemoryBudgetError, TimeBudgetError, QualityError, BackendError: as `run` would.
        """
        if length < 1 or batch < 1:
            raise InputError(f"expected a length and a batch of at least 1, got {length} and {batch}")
        if self._generator is not None:
            bucket, reason = self._generator.ladder(batch).choose(length, None)
            with self._dispatcher.session(bucket, self._alone) as session:
                return self._explained(length, bucket, session.backend, 1, reason)
        if self._fuser is not None and length > self._longest:
            plan, note = self._fuser.plan(length)
            return self._explained(length, self._manifest.buckets[-1], self._fuser.backend(), len(plan.segments), note)
        special = self._manifest.special_tokens
        segments, run_length, note = self._overflow(length, len(special.prefix), len(special.suffix))
        bucket, reason = self._dispatcher.choose(run_length, batch if segments is None else 1)
        with self._dispatcher.session(bucket, self._alone) as session:
            count = 1 if segments is None else len(segments.segments)
            return self._explained(length, bucket, session.backend, count, note or reason)

    def _explained(
        self, length: int, bucket: BucketRecord, backend: BackendName, segments: int, reason: str
    ) -> Explanation:
        record = self._dispatcher.chooser.record(bucket, length)
        metric, quality = (None, None) if record is None else (record.metric, record.value)
        return Explanation(length, bucket.name, bucket.network, backend, segments, metric, quality, reason)

    def stats(self) -> Stats:
        """What ran by bucket, what is open now, and what did not go as the resource profile asked."""
        sessions = self._dispatcher.open_sessions()
        with self._stats_lock:
            buckets = {name: copy(stats) for name, stats in self._stats.items()}
        return Stats(
            buckets=buckets,
            open_sessions=len(sessions),
            resident_bytes=sum(session.resident_bytes for session in sessions),
            evictions=self._dispatcher.evictions,
            fallbacks=tuple(self._dispatcher.fallbacks),
        )

    def close(self) -> None:
        """Close every session; runs that are under way finish, later ones raise CtxError."""
        self._dispatcher.close()
        if self._generator is not None:
            self._generator.close()

    @property
    def _manifest(self) -> Manifest:
        return self.bundle.manifest

    def _run_rows(self, rows: Sequence[Row]) -> list[Result]:
        """The result of every row, a batch of one, in order: jobs of all rows are batched together."""
        if self._fuser is not None and any(row.length > self._longest for row in rows):
            return self._run_long_rows(self._fuser, rows)
        plans: list[SegmentPlan | None] = []
        jobs: list[Job] = []
        for row in rows:
            segments, parts, note = self._cut(row)
            plans.append(segments)
            for part in parts:
                bucket, reason = self._dispatcher.choose(part.length)
                jobs.append(Job(part, bucket, segments is not None, note or reason))
        results = self._run_jobs(jobs)
        if not any(plans):
            return results
        answers = iter(results)
        return [
            next(answers) if plan is None else self._fused(row, plan, [next(answers) for _ in plan.segments])
            for row, plan in zip(rows, plans, strict=True)
        ]

    def _run_long_rows(self, fuser: Fuser, rows: Sequence[Row]) -> list[Result]:
        """The same where some rows are longer than every bucket, and the model fuses their segments."""
        short = iter(self._run_rows([row for row in rows if row.length <= self._longest]))
        results: list[Result] = []
        for row in rows:
            if row.length <= self._longest:
                results.append(next(short))
                continue
            result = fuser.run(row)
            self._count_fused(result.dispatch[0])
            results.append(result)
        return results

    def _overflow(self, length: int, prefix: int, suffix: int) -> tuple[SegmentPlan | None, int, str]:
        """What becomes of a row of `length` tokens: its segments, the length to run, and a note if it is too long."""
        longest, overflow = self._longest, self._manifest.overflow
        if length <= longest:
            return None, length, ""
        if overflow.policy == "error":
            raise TooLongError(
                f"{length} tokens are more than the {longest} that the bundle takes",
                hint="shorten the input, or build with the overflow policy `segment`",
            )
        if overflow.policy == "truncate":
            return None, longest, f"truncated: {length - longest} of {length} tokens beyond {longest} were cut off"
        plan = plan_segments(length, window=longest, overlap=overflow.overlap, prefix=prefix, suffix=suffix)
        return plan, longest, f"{length} tokens in {len(plan.segments)} segments of {longest}"

    def _cut(self, row: Row) -> tuple[SegmentPlan | None, list[Row], str]:
        """The parts of a row that are run: itself, its truncated self, or its windows."""
        if row.length <= self._longest:
            return None, [row], ""
        prefix, suffix = 0, 0
        if self._layout.tokens is not None:
            prefix, suffix = find_framing(row.arrays[self._layout.tokens][0], self._manifest.special_tokens)
        plan, length, note = self._overflow(row.length, prefix, suffix)
        if plan is not None:
            return plan, [self._layout.take(row, segment.indices) for segment in plan.segments], note
        kept = np.concatenate([np.arange(length - suffix), np.arange(row.length - suffix, row.length)])
        return None, [self._layout.take(row, kept)], note

    def _run_jobs(self, jobs: Sequence[Job]) -> list[Result]:
        if len(jobs) == 1:
            return self._run_batch(jobs)
        results: dict[int, Result] = {}
        for batch in form_batches(jobs, may_pad=self._manifest.padding_invariant and self._layout.mask is not None):
            for index, result in zip(batch, self._run_batch([jobs[index] for index in batch]), strict=True):
                results[index] = result
        return [results[index] for index in range(len(jobs))]

    def _run_batch(self, jobs: Sequence[Job]) -> list[Result]:
        """Run jobs of one bucket together, padded to the longest."""
        bucket, rows = jobs[0].bucket, [job.row for job in jobs]
        name, lengths = self._names[bucket.max_length], [row.length for row in rows]
        longest = max(lengths)
        padded = min(lengths) < longest
        with self._dispatcher.session(bucket, "masked" if padded else self._alone) as session:
            feeds = self._layout.stack(rows, session.inputs)
            started = time.perf_counter()
            outputs = session.run(feeds, bucket=name)
            ms = (time.perf_counter() - started) * 1e3
            backend = session.backend
        split = self._layout.unstack(outputs, lengths)
        self._count(name, lengths, longest, ms)
        return [
            Result(split[index], (Dispatch(length, name, backend, longest - length, 1, ms, jobs[index].reason),))
            for index, length in enumerate(lengths)
        ]

    def _fused(self, row: Row, plan: SegmentPlan, windows: Sequence[Result]) -> Result:
        outputs = {
            spec.name: fuse(plan, [window.outputs[spec.name][0] for window in windows], spec)[np.newaxis]
            for spec in self._manifest.outputs
        }
        runs = [window.dispatch[0] for window in windows]
        ms, padding = sum(run.ms for run in runs), sum(run.padding for run in runs)
        first = runs[0]
        return Result(
            outputs, (Dispatch(row.length, first.bucket, first.backend, padding, len(runs), ms, first.reason),)
        )

    def _joined(self, rows: Sequence[Result], batched: bool) -> Result:
        """Rows in one batch; without its axis for the one row of inputs that had none."""
        if len(rows) == 1 and batched:
            return rows[0]
        outputs = self._layout.join([row.outputs for row in rows])
        if not batched:
            outputs = {name: array[0] for name, array in outputs.items()}
        return Result(outputs, tuple(row.dispatch[0] for row in rows))

    def _count_fused(self, run: Dispatch) -> None:
        with self._stats_lock:
            stats = self._stats[run.bucket]
            stats.runs += run.segments
            stats.rows += run.segments
            stats.fused += 1
            stats.tokens += run.segments * self._longest
            stats.seconds += run.ms / 1e3

    def _count(self, bucket: str, lengths: Sequence[int], longest: int, ms: float) -> None:
        tokens = sum(lengths)
        with self._stats_lock:
            stats = self._stats[bucket]
            stats.runs += 1
            stats.rows += len(lengths)
            stats.tokens += tokens
            stats.padding += longest * len(lengths) - tokens
            stats.seconds += ms / 1e3
