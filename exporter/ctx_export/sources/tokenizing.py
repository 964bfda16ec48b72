"""A Hugging Face folder's tokenizer: its file, its special tokens and what it gives a model."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from transformers import AutoTokenizer

from ctx_export.sources.source import one_line
from ctx_runtime.errors import SourceError
from ctx_runtime.manifest import SpecialTokens

FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "merges.txt", "sentencepiece.bpe.model",
         "spiece.model", "spm.model", "tokenizer.model")  # fmt: skip
"""The files that tokenizers are read from."""
_PROBES = ("a", "0", ".", "的")
"""Texts, one of which every tokenizer has a token for."""


@dataclass(frozen=True)
class TokenizerInfo:
    """A tokenizer as the build needs it.

    Attributes:
        file: a `tokenizer.json`.
        special_tokens: what it puts around a text.
        special_ids: every id with a meaning of its own, the pad and mask tokens' included.
        pad_id: None where it has no pad token.
        input_names: the inputs that it makes for a model.
    """

    file: Path
    special_tokens: SpecialTokens
    special_ids: frozenset[int]
    pad_id: int | None
    input_names: tuple[str, ...]


def read_tokenizer(folder: Path) -> TokenizerInfo | None:
    """The tokenizer of a folder, None where it has none.

    Raises:
        SourceError: its files can't be read or converted to a `tokenizer.json`.
    """
    if not any((folder / name).is_file() for name in FILES if name != "tokenizer_config.json"):
        return None
    try:
        loaded: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        file = folder / "tokenizer.json"
        file = file if file.is_file() else _convert(loaded)
        encoder = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the packages raise whatever they like
        raise SourceError(
            f"the tokenizer of {folder.name} can't be read as a tokenizer.json: {one_line(error)}",
            hint="save it as a fast tokenizer into the folder, or remove its files to export without it",
        ) from error
    return TokenizerInfo(
        file=file,
        special_tokens=framing(encoder),
        special_ids=frozenset(loaded.all_special_ids),
        pad_id=loaded.pad_token_id,
        input_names=tuple(loaded.model_input_names),
    )


def _convert(tokenizer: Any) -> Path:  # noqa: ANN401 (transformers has no types)
    """The `tokenizer.json` of a tokenizer that was read from a vocabulary; it lives as long as this process."""
    folder = tempfile.mkdtemp(prefix="ctx-export-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    file = Path(folder) / "tokenizer.json"
    tokenizer.backend_tokenizer.save(str(file))
    return file


def framing(encoder: tokenizers.Tokenizer) -> SpecialTokens:
    """The ids that stand before and after the tokens of a text."""
    encoder.no_truncation()
    encoder.no_padding()
    for probe in _PROBES:
        encoding = encoder.encode(probe)
        content = [index for index, special in enumerate(encoding.special_tokens_mask) if not special]
        if content:
            ids = tuple(encoding.ids)
            return SpecialTokens(prefix=ids[: content[0]], suffix=ids[content[-1] + 1 :])
    return SpecialTokens()
