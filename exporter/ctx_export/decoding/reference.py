"""A text that PyTorch continues: what decoder graphs are proven with, at the edges of every bucket."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ctx_runtime.decoder import GREEDY_TOKENS

_CHUNK = 512
"""Tokens that PyTorch reads at once: its memory grows with chunk x length."""


@dataclass
class ReferenceText:
    """Token ids, and PyTorch's logits in float32 where they matter.

    Before each edge the last 16 tokens are those that PyTorch finds most likely; the others are random.

    Attributes:
        ids: the text.
        logits: by the number of tokens read, what PyTorch says of the next one, `(vocab,)`.
    """

    ids: list[int] = field(default_factory=list)
    logits: dict[int, np.ndarray] = field(default_factory=dict)

    def rows(self, lengths: Iterable[int]) -> np.ndarray:
        """The logits behind so many tokens each, `(n, vocab)`."""
        return np.stack([self.logits[length] for length in lengths])


def read_ahead(edge: int) -> int:
    """The tokens before `edge` that are given rather than chosen greedily; at least one."""
    return max(1, edge - GREEDY_TOKENS)


def write_reference(model: Any, edges: Iterable[int], *, avoid: Collection[int] = (), seed: int = 0) -> ReferenceText:  # noqa: ANN401 (transformers has no types)
    """A text as long as the largest of `edges`, with logits over the last 16 tokens before each.

    Args:
        model: a causal language model of transformers, in eval mode.
        edges: lengths in tokens.
        avoid: ids that do not occur among the random ones, those that end a text.
        seed: of the random ids.
    """
    text, cache = ReferenceText(), None
    ordinary = np.setdiff1d(np.arange(model.config.vocab_size), sorted(avoid))
    random = np.random.default_rng(seed)
    with torch.no_grad():
        for edge in sorted(set(edges)):
            while len(text.ids) < edge:
                missing = read_ahead(edge) - len(text.ids)
                if missing > 0:
                    new = random.choice(ordinary, min(missing, _CHUNK)).tolist()
                else:
                    new = [int(text.logits[len(text.ids)].argmax())]
                output = model(input_ids=torch.tensor([new]), past_key_values=cache, use_cache=True, logits_to_keep=1)
                cache = output.past_key_values
                text.ids += new
                text.logits[len(text.ids)] = output.logits[0, -1].float().numpy()
    return text
