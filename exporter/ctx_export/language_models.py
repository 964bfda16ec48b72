"""Causal language models as an evaluation reads them: a bundle in its buckets, or a Hugging Face folder in PyTorch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from tokenizers import Tokenizer

from ctx_export.sources.causal import generates, load_causal
from ctx_runtime.bundle import Bundle
from ctx_runtime.dispatch import Dispatcher
from ctx_runtime.errors import InputError
from ctx_runtime.generation.decoding import Decoding
from ctx_runtime.generation.ladder import Ladder
from ctx_runtime.manifest import BucketRecord

_CHUNK = 512
"""Tokens that PyTorch reads at once: its memory grows with chunk x length."""


class Reading(Protocol):
    """One text as far as it was read."""

    def extend(self, ids: Sequence[int]) -> np.ndarray:
        """The logits `(vocab,)` after `ids`, read behind what was read before; overwritten by the next call."""


class LanguageModel(Protocol):
    """What is evaluated.

    Attributes:
        name: of the model.
        tokenizer: reads texts; None: it has none.
        lengths: what it was built for, in ascending order, in tokens; empty: nothing in particular.
    """

    name: str
    tokenizer: Tokenizer | None
    lengths: tuple[int, ...]

    def place(self, length: int) -> str:
        """Where a text of `length` tokens is read, in words.

        Raises:
            InputError: it takes no such length.
        """

    def begin(self, length: int) -> Reading:
        """Begin to read a text of `length` tokens; raises as `place`."""


def is_language_model(path: Path) -> bool:
    """Whether `path` is the bundle of a causal language model, or a Hugging Face folder of one."""
    if (path / "manifest.json").is_file():
        return Bundle.open(path).manifest.decoder is not None
    return path.is_dir() and generates(path, None)


@contextlib.contextmanager
def open_language_model(path: Path) -> Iterator[LanguageModel]:
    """Open a bundle or a folder that `is_language_model`.

    Raises:
        InputError: it is neither.
        BundleError, SourceError: its files are damaged.
    """
    if not is_language_model(path):
        raise InputError(
            f"{path} is neither a model that train wrote nor a causal language model",
            hint="give its folder, or the bundle of a causal language model",
        )
    if not (path / "manifest.json").is_file():
        yield _Folder(path)
        return
    with contextlib.closing(_Bundle(Bundle.open(path))) as model:
        yield model


class _Bundle:
    """A bundle; a text is read in the smallest bucket that holds it, by what generates in the runtime."""

    def __init__(self, bundle: Bundle) -> None:
        self._manifest = manifest = bundle.manifest
        self._sessions = Dispatcher(
            bundle, backends=None, share_weights=manifest.share_weights, session_budget=manifest.session_budget
        )
        self.name = manifest.name
        self.tokenizer = _tokenizer(bundle.path(manifest.tokenizer) if manifest.tokenizer else None)
        self.lengths = tuple(bucket.max_length for bucket in manifest.buckets)

    def place(self, length: int) -> str:
        bucket = self._bucket(length)
        return f"{bucket.name} {bucket.network}"

    def begin(self, length: int) -> Reading:
        decoder = self._manifest.decoder
        assert decoder is not None  # noqa: S101 (see is_language_model)
        return _BundleReading(Decoding(decoder, self._sessions, Ladder(self._manifest), self._bucket(length)))

    def close(self) -> None:
        self._sessions.close()

    def _bucket(self, length: int) -> BucketRecord:
        bucket = next((bucket for bucket in self._manifest.buckets if bucket.max_length >= length), None)
        if bucket is None:
            raise InputError(
                f"{length} tokens are more than the {self.lengths[-1]} of the largest bucket of {self.name}",
                hint="give shorter --lengths",
            )
        return bucket


class _BundleReading:
    def __init__(self, decoding: Decoding) -> None:
        self._decoding = decoding

    def extend(self, ids: Sequence[int]) -> np.ndarray:
        waiting = list(ids)
        while waiting:
            size = self._decoding.room(0)
            logits, waiting = self._decoding.extend(0, waiting[:size]), waiting[size:]
        return logits


class _Folder:
    """A model in PyTorch, in float32."""

    def __init__(self, path: Path) -> None:
        source = load_causal(path)
        self.name, self._model, self._longest = source.name, source.model, source.max_length
        self.tokenizer = _tokenizer(source.tokenizer)
        self.lengths: tuple[int, ...] = ()

    def place(self, length: int) -> str:
        if self._longest is not None and length > self._longest:
            raise InputError(
                f"{length} tokens are more than the {self._longest} positions of {self.name}",
                hint="give shorter --lengths",
            )
        return "PyTorch fp32"

    def begin(self, length: int) -> Reading:
        self.place(length)
        return _FolderReading(self._model)


class _FolderReading:
    def __init__(self, model: Any) -> None:  # noqa: ANN401 (transformers has no types)
        self._model, self._past = model, None

    def extend(self, ids: Sequence[int]) -> np.ndarray:
        for start in range(0, len(ids), _CHUNK):
            new = torch.tensor([list(ids[start : start + _CHUNK])])
            with torch.no_grad():
                output = self._model(input_ids=new, past_key_values=self._past, use_cache=True, logits_to_keep=1)
            self._past = output.past_key_values
        logits: np.ndarray = output.logits[0, -1].numpy()
        return logits


def _tokenizer(file: Path | None) -> Tokenizer | None:
    """The tokenizer in `file`, which neither cuts nor pads."""
    if file is None:
        return None
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
