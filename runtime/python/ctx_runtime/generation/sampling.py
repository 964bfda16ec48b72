"""Logits -> the next token.

Steps and their order are those of transformers' logits processors: repetition penalty (Keskar et al. 2019,
arXiv:1909.05858), temperature, top-k, top-p (Holtzman et al. 2020, arXiv:1904.09751), min-p (Nguyen et al. 2024,
arXiv:2407.01082).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ctx_runtime.generation.settings import Settings


class Sampler:
    """Picks the tokens of one row, with random numbers of its own."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._random = np.random.default_rng(settings.seed)

    def pick(self, logits: np.ndarray, seen: Sequence[int]) -> int:
        """The next token.

        Args:
            logits: `(vocab,)`, which stay as they are.
            seen: the tokens so far, which the repetition penalty is for.
        """
        if self._settings.repetition_penalty != 1:
            logits = penalise(logits, seen, self._settings.repetition_penalty)
        if self._settings.temperature == 0:
            return int(logits.argmax())
        tokens, probabilities = candidates(logits, self._settings)
        drawn = self._random.random() * probabilities.sum()
        place = np.searchsorted(probabilities.cumsum(), drawn, side="right")
        return int(tokens[min(place, len(tokens) - 1)])


def penalise(logits: np.ndarray, seen: Sequence[int], penalty: float) -> np.ndarray:
    """The logits `(vocab,)` with those of `seen` tokens moved away from the likely end, each once."""
    penalised, tokens = logits.copy(), np.unique(np.asarray(seen, np.int64))
    scores = logits[tokens]
    penalised[tokens] = np.where(scores < 0, scores * penalty, scores / penalty)
    return penalised


def candidates(logits: np.ndarray, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """The tokens that may be drawn, the likeliest first, and their probabilities, `(n,)` each.

    Probabilities are relative to those of the tokens that `top_k` leaves.
    """
    tokens = np.arange(len(logits))
    if settings.top_k is not None and settings.top_k < len(logits):
        tokens = np.argpartition(logits, -settings.top_k)[-settings.top_k :]
    tokens = tokens[np.argsort(-logits[tokens], kind="stable")]
    probabilities = np.exp(log_softmax(logits[tokens].astype(np.float64) / settings.temperature))
    before = probabilities.cumsum() - probabilities
    kept = (before < settings.top_p) & (probabilities >= settings.min_p * probabilities[0])
    kept[0] = True
    return tokens[kept], probabilities[kept]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """The logarithms of the probabilities of `logits` `(n,)`, in float64."""
    shifted = logits.astype(np.float64) - logits.max()
    logarithms: np.ndarray = shifted - np.log(np.exp(shifted).sum())
    return logarithms
