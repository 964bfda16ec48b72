"""What callers give as prompts -> token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np

from ctx_runtime.errors import InputError
from ctx_runtime.generation.chat import ChatTemplate, Message
from ctx_runtime.text import Tokenizer

Prompt = str | Sequence[Message] | Sequence[int] | np.ndarray
"""A text, messages, or token ids `(length,)`."""


def is_batch(prompt: Prompt | Sequence[Prompt]) -> bool:
    """Whether this is a list of prompts and not one: a list of texts, of conversations or of rows of ids."""
    if isinstance(prompt, np.ndarray):
        return prompt.ndim > 1
    if isinstance(prompt, str) or len(prompt) == 0:
        return False
    return isinstance(prompt[0], str | Sequence | np.ndarray)


def read_prompt(prompt: Prompt, tokenizer: Tokenizer, template: ChatTemplate, vocabulary: int) -> list[int]:
    """The token ids of one prompt; a text gets the special tokens that the tokenizer adds, messages the template's.

    Raises:
        InputError: not a prompt, an id that the model does not know, or no tokenizer or template to read it with.
        MissingExtraError: a package for it is not installed.
    """
    if isinstance(prompt, str):
        ids = tokenizer.ids(prompt)
    elif len(prompt) and isinstance(prompt[0], Mapping):
        ids = tokenizer.ids(template.render(cast(Sequence[Message], prompt)), special=False)
    else:
        array = np.asarray(prompt)
        if array.ndim != 1 or not (array.size == 0 or np.issubdtype(array.dtype, np.integer)):
            raise InputError("expected a text, messages or token ids", hint='e.g. "Call me", [{"role": …}], [1, 2, 3]')
        ids = array.tolist()
    if ids and (min(ids) < 0 or max(ids) >= vocabulary):
        raise InputError(f"token ids are from 0 to {vocabulary - 1}, got {min(ids)} to {max(ids)}")
    return ids
