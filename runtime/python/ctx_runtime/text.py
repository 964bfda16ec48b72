"""Text -> token ids and back, through the tokenizer that a bundle carries."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ctx_runtime.bundle import Bundle
from ctx_runtime.errors import BundleError, InputError, MissingExtraError


class Tokenizer:
    """The tokenizer of a bundle, loaded on first use; it never truncates or pads."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._lock = threading.Lock()
        self._loaded: Any = None

    def encode(self, text: str) -> dict[str, np.ndarray]:
        """The arrays `(length,)` of a text, for the inputs with the roles `tokens` and `segment-ids`.

        Raises:
            InputError: the bundle has no tokenizer, or its model takes no tokens.
            MissingExtraError: the package `tokenizers` is not installed.
        """
        encoding = self._tokenizer().encode(text)
        values = {"tokens": encoding.ids, "segment-ids": encoding.type_ids}
        return {
            spec.name: np.array(values[spec.role], spec.dtype)
            for spec in self._bundle.manifest.inputs
            if spec.role in values
        }

    def ids(self, text: str, *, special: bool = True) -> list[int]:
        """The token ids of a text; `special`: with the special tokens that frame it.

        Raises:
            InputError, MissingExtraError: as `encode`.
        """
        ids: list[int] = self._tokenizer().encode(text, add_special_tokens=special).ids
        return ids

    @functools.cached_property
    def size(self) -> int:
        """How many tokens there are, special ones included; their ids are below it."""
        ids: dict[str, int] = self._tokenizer().get_vocab(with_added_tokens=True)
        return max(ids.values()) + 1

    def token(self, token: int) -> str:
        """The text of one token, special or not; nothing for an id that the tokenizer does not know."""
        return self._tokenizer().id_to_token(token) or ""

    def stream(self, before: Sequence[int]) -> Callable[[int], str]:
        """Takes the tokens that follow `before` one by one; gives the text that each completes, no special tokens.

        That is nothing as long as a character is unfinished. A space between the two texts belongs to the second.
        """
        from tokenizers.decoders import DecodeStream  # noqa: PLC0415 (optional, and there once a tokenizer is)

        tokenizer, last = self._tokenizer(), list(before[-1:])
        unfinished = tokenizer.decode(last).endswith("\ufffd")
        stream = DecodeStream([] if unfinished else last, skip_special_tokens=True)
        return lambda token: stream.step(tokenizer, token) or ""

    def _tokenizer(self) -> Any:  # noqa: ANN401 (the package has no types)
        with self._lock:
            if self._loaded is None:
                self._loaded = self._load()
            return self._loaded

    def _load(self) -> Any:  # noqa: ANN401
        manifest = self._bundle.manifest
        if manifest.tokenizer is None or not any(spec.role == "tokens" for spec in manifest.inputs):
            raise InputError(f"the bundle {manifest.name} has no tokenizer", hint="give arrays of token ids")
        try:
            import tokenizers  # noqa: PLC0415 (optional)
        except ImportError as error:
            raise MissingExtraError("tokenizers", "cpu", purpose="running text") from error
        try:
            tokenizer = tokenizers.Tokenizer.from_file(str(self._bundle.path(manifest.tokenizer)))
        except Exception as error:  # the package raises bare Exceptions
            raise BundleError("reference", f"{manifest.tokenizer} is not a tokenizer: {error}") from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer
