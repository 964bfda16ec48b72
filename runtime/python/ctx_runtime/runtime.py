"""What an application holds: open a bundle, run inputs of any length, generate text, ask why, close."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, overload

from numpy.typing import ArrayLike

from ctx_runtime.bundle import Bundle, Check
from ctx_runtime.dispatch import Dispatcher
from ctx_runtime.errors import InputError, QualityError
from ctx_runtime.execution import Execution
from ctx_runtime.generation.generation import Generation
from ctx_runtime.generation.generator import Generator
from ctx_runtime.generation.prompts import Prompt
from ctx_runtime.generation.settings import Settings
from ctx_runtime.manifest import BucketRecord, Manifest
from ctx_runtime.padding import Row
from ctx_runtime.recording import LengthRecorder
from ctx_runtime.resource_profile import BackendName, ShareWeights
from ctx_runtime.results import Explanation, Result, Stats
from ctx_runtime.scheduling.scheduler import Scheduler
from ctx_runtime.scheduling.settings import Scheduling
from ctx_runtime.text import Tokenizer

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ctx_runtime.generation.settings import Options

Inputs = Mapping[str, ArrayLike]

_LONGEST_TIMEOUT_S = 1e6


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
        scheduling: Scheduling | None = None,
        record: str | os.PathLike[str] | None = None,
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
        self._execution = Execution(bundle.manifest, self._dispatcher)
        self._recorder = None if record is None else LengthRecorder(Path(record))
        self._scheduler = Scheduler(bundle.manifest, self._execution, self._dispatcher, scheduling or Scheduling())
        self._tokenizer = Tokenizer(bundle)
        decoder = bundle.manifest.decoder
        self._generator = Generator(bundle, decoder, self._dispatcher, self._tokenizer) if decoder else None

    @classmethod
    def open(
        cls,
        bundle: str | os.PathLike[str] | Bundle,
        *,
        share_weights: ShareWeights | None = None,
        session_budget: int | None = None,
        backends: Sequence[BackendName] | None = None,
        min_quality: float | None = None,
        check: Check = "changed",
        scheduling: Scheduling | None = None,
        record: str | os.PathLike[str] | None = None,
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
            check: what is hashed of a bundle that is not open yet, see `Bundle.open`.
            record: count the lengths of inputs in this file, as JSON; what it holds already is counted on. Bundles that
                generate text record nothing.
            scheduling: how submitted requests are batched and bounded; by default as the backend runs them best.

        Raises:
            BundleError: the folder is not a sound bundle.
            QualityError: `min_quality` is given, and the bundle has no table of quality.
        """
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle, check=check)
        return cls(
            opened,
            share_weights=share_weights,
            session_budget=session_budget,
            backends=backends,
            min_quality=min_quality,
            scheduling=scheduling,
            record=record,
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
        self._check_runs()
        if isinstance(inputs, (dict, Mapping)):  # a dict is told at once, an abstract class takes its time
            if (row := self._execution.layout.whole_row(inputs)) is not None:
                if self._recorder is not None:
                    self._recorder.note(row.length)
                return self._execution.run_row(row)
            rows, batched = self._read(inputs)
            return self._execution.join(self._execution.run(rows), batched)
        groups = [self._read(item) for item in inputs]
        answers = iter(self._execution.run([row for rows, _ in groups for row in rows]))
        return [self._execution.join([next(answers) for _ in rows], batched) for rows, batched in groups]

    def submit(self, inputs: Inputs, *, timeout_s: float | None = None) -> Future[Result]:
        """Queue an input, to be run by a worker thread in a batch with others; at once a future of what `run` returns.

        `cancel` works until it begins. The arrays are copied.

        Args:
            inputs: arrays by name, as `run` takes them.
            timeout_s: if it has not begun after so many seconds, it ends with `DeadlineError`.

        Raises:
            InputError, TooLongError, MemoryBudgetError, TimeBudgetError, QualityError: as `run` would.
            OverloadError: as many requests wait as may; says when to try again.
            CtxError: the runtime drains or is closed.
        """
        self._check_runs()
        if timeout_s is not None and not 0 <= timeout_s <= _LONGEST_TIMEOUT_S:
            raise InputError(f"timeout_s: expected seconds from 0 to {_LONGEST_TIMEOUT_S:g}, got {timeout_s!r}")
        rows, batched = self._read(inputs)
        return self._scheduler.submit(rows, batched=batched, timeout_s=timeout_s)

    def drain(self, timeout_s: float | None = None) -> bool:
        """Take no more submitted requests, and wait for those that were accepted; whether all ended in `timeout_s`."""
        return self._scheduler.drain(timeout_s)

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
            with self._dispatcher.session(bucket, self._execution.alone) as session:
                return self._explained(length, bucket, session.backend, 1, reason)
        fuser = self._execution.fuser
        if fuser is not None and length > self._manifest.max_length:
            plan, note = fuser.plan(length)
            return self._explained(length, self._manifest.buckets[-1], fuser.backend(), len(plan.segments), note)
        special = self._manifest.special_tokens
        segments, run_length, note = self._execution.overflow(length, len(special.prefix), len(special.suffix))
        bucket, reason = self._dispatcher.choose(run_length, batch if segments is None else 1)
        with self._dispatcher.session(bucket, self._execution.alone) as session:
            count = 1 if segments is None else len(segments.segments)
            return self._explained(length, bucket, session.backend, count, note or reason)

    def _explained(
        self, length: int, bucket: BucketRecord, backend: BackendName, segments: int, reason: str
    ) -> Explanation:
        record = self._dispatcher.chooser.record(bucket, length)
        metric, quality = (None, None) if record is None else (record.metric, record.value)
        return Explanation(length, bucket.name, bucket.network, backend, segments, metric, quality, reason)

    def warm_up(self) -> tuple[str, ...]:
        """Open the sessions of the buckets, smallest first, until the session budget is full.

        Returns:
            The names of the buckets whose session is open; the others are opened on first use.

        Raises:
            BackendError: no backend can serve a bucket.
        """
        return tuple(self._dispatcher.warm_up(self._execution.alone))

    def stats(self) -> Stats:
        """What ran by bucket or was generated, what is open, and what did not go as the resource profile asked."""
        sessions = self._dispatcher.open_sessions()
        return Stats(
            buckets=self._execution.stats(),
            open_sessions=len(sessions),
            resident_bytes=sum(session.resident_bytes for session in sessions),
            evictions=self._dispatcher.evictions,
            fallbacks=tuple(self._dispatcher.fallbacks),
            requests=self._scheduler.stats(),
            generation=None if self._generator is None else self._generator.stats,
        )

    def close(self) -> None:
        """Close every session; runs that are under way finish, later ones and those in the queue raise CtxError."""
        self._scheduler.close()
        self._dispatcher.close()
        if self._generator is not None:
            self._generator.close()
        if self._recorder is not None:
            self._recorder.close()

    def _read(self, inputs: Inputs) -> tuple[list[Row], bool]:
        """The rows of `inputs`, whose lengths are recorded, and whether they came with a batch axis."""
        rows, batched = self._execution.layout.read(inputs)
        if self._recorder is not None:
            for row in rows:
                self._recorder.note(row.length)
        return rows, batched

    def _check_runs(self) -> None:
        if self._generator is not None:
            raise InputError(f"{self._manifest.name} generates text and has no other outputs", hint="use generate")

    @property
    def _manifest(self) -> Manifest:
        return self.bundle.manifest
