"""`evaluate` of causal language models: perplexity on a text, or the score of a retrieval task, by length."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from ctx_export.language_models import LanguageModel
from ctx_models.data import IGNORED
from ctx_models.retrieval import RetrievalTask, documents, effective_context_length, text_wording
from ctx_runtime.errors import InputError

_SCORED = 128
"""The last tokens of a window, at most, whose probability counts."""
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class LengthScore:
    """What a model is worth at one length.

    Attributes:
        length: of the texts that were read, in tokens.
        place: the bucket and the network that read them.
        scored: tokens, or answers, that count.
        accuracy: the share of them that the model found most likely.
        perplexity: of them; None for a retrieval task.
        agreement: the share of places where another model finds the same token most likely; None without one.
    """

    length: int
    place: str
    scored: int
    accuracy: float
    perplexity: float | None = None
    agreement: float | None = None


@dataclass(frozen=True)
class LanguageReport:
    """What was measured.

    Attributes:
        model: its name.
        task: `perplexity`, or the retrieval task.
        scores: by length, in ascending order.
        bar: the accuracy that a length must exceed to count towards the effective context length of a retrieval task.
    """

    model: str
    task: str
    scores: tuple[LengthScore, ...]
    bar: float | None = None

    @property
    def effective(self) -> int | None:
        """The effective context length of a retrieval task in tokens; None where even the shortest is too long."""
        if self.bar is None:
            return None
        return effective_context_length({score.length: score.accuracy for score in self.scores}, self.bar)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        answer = {"model": self.model, "task": self.task, "lengths": [asdict(score) for score in self.scores]}
        return answer if self.bar is None else answer | {"bar": self.bar, "effective_context_length": self.effective}


def evaluate_perplexity(
    model: LanguageModel,
    file: Path,
    *,
    lengths: Sequence[int],
    count: int,
    against: LanguageModel | None = None,
    on_progress: OnProgress | None = None,
) -> LanguageReport:
    """The perplexity of the same tokens of a text at each length: only how much comes before them differs.

    Args:
        model: what reads.
        file: the text, UTF-8; special tokens are not added.
        lengths: of the windows, in tokens.
        count: windows, which end at even distances; the last 128 tokens of each count, half of the shortest at most.
        against: another model, which reads the same.
        on_progress: told `(done, total)` in windows.

    Raises:
        InputError: there is no text, it is shorter than the longest window, or a model does not take a length.
    """
    ids = _read(file, tokenizer_of(model))
    lengths = _checked(lengths, model, *([against] if against is not None else []))
    if len(ids) < lengths[-1]:
        raise InputError(
            f"the text has {len(ids)} tokens, fewer than the {lengths[-1]} of the longest window",
            hint="give a longer text, or shorter --lengths",
        )
    scored = min(_SCORED, lengths[0] // 2)
    ends = np.linspace(lengths[-1], len(ids), count).astype(int).tolist()
    scores = []
    for at, length in enumerate(lengths):
        windows = [ids[end - length : end] for end in ends]
        found, others = [], []
        for done, window in enumerate(windows, 1):
            found.append(_read_window(model, window, scored))
            if against is not None:
                others.append(_read_window(against, window, scored).likeliest)
            _tell(on_progress, at, done, lengths, count)
        likeliest, truth = (
            np.concatenate([one.likeliest for one in found]),
            np.concatenate([w[-scored:] for w in windows]),
        )
        scores.append(
            LengthScore(
                length,
                model.place(length),
                len(truth),
                float((likeliest == truth).mean()),
                math.exp(np.concatenate([one.surprise for one in found]).mean()),
                float((likeliest == np.concatenate(others)).mean()) if others else None,
            )
        )
    return LanguageReport(model.name, "perplexity", tuple(scores))


def evaluate_retrieval(
    model: LanguageModel,
    name: str,
    task: RetrievalTask,
    *,
    lengths: Sequence[int],
    count: int,
    seed: int,
    bar: float,
    on_progress: OnProgress | None = None,
) -> LanguageReport:
    """How often the model's likeliest next token answers the question at the end of a document; see `documents`.

    Raises:
        InputError: the model does not take a length, or has no tokenizer.
        ModelError: the lengths do not hold the task.
    """
    wording, lengths = text_wording(tokenizer_of(model)), _checked(lengths, model)
    scores = []
    for at, length in enumerate(lengths):
        right = 0
        for done, document in enumerate(
            documents(task, wording, length=length, count=count, seed=seed, causal=True), 1
        ):
            (ids,), labels = document.texts, np.array(document.labels)
            asked = int(np.flatnonzero(labels != IGNORED)[-1])
            right += int(model.begin(length).extend(ids[: asked + 1]).argmax()) == labels[asked]
            _tell(on_progress, at, done, lengths, count)
        scores.append(LengthScore(length, model.place(length), count, right / count))
    return LanguageReport(model.name, name, tuple(scores), bar)


def tokenizer_of(model: LanguageModel) -> Tokenizer:
    """The tokenizer of a model that needs one.

    Raises:
        InputError: it has none.
    """
    if model.tokenizer is None:
        raise InputError(
            f"{model.name} has no tokenizer, so it can't read text", hint="build it from a folder with one"
        )
    return model.tokenizer


@dataclass(frozen=True)
class _Found:
    """What a model says of a window's tokens: which are likeliest, and its surprise at what came, in nats."""

    likeliest: np.ndarray
    surprise: np.ndarray


def _read_window(model: LanguageModel, window: Sequence[int], scored: int) -> _Found:
    likeliest, surprise = [], []
    for token, logits in _follow(model, window, scored):
        shifted = logits.astype(np.float64) - logits.max()
        likeliest.append(int(logits.argmax()))
        surprise.append(float(np.log(np.exp(shifted).sum()) - shifted[token]))
    return _Found(np.array(likeliest), np.array(surprise))


def _follow(model: LanguageModel, window: Sequence[int], scored: int) -> Iterator[tuple[int, np.ndarray]]:
    """Each of the last `scored` tokens with the logits `(vocab,)` before it."""
    reading, read = model.begin(len(window)), window[:-scored]
    for token in window[-scored:]:
        yield token, reading.extend(read)
        read = [token]


def _read(file: Path, tokenizer: Tokenizer) -> list[int]:
    try:
        ids: list[int] = tokenizer.encode(file.read_text(encoding="utf-8"), add_special_tokens=False).ids
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} can't be read as text: {error}") from error
    return ids


def _checked(lengths: Sequence[int], *models: LanguageModel) -> tuple[int, ...]:
    """The lengths in ascending order.

    Raises:
        InputError: there are none, one is below 2, or a model does not take it.
    """
    ordered = tuple(sorted(set(lengths)))
    if not ordered or ordered[0] < 2:
        raise InputError(f"expected lengths of at least 2 tokens, got {','.join(map(str, lengths)) or 'none'}")
    for model in models:
        model.place(ordered[-1])
    return ordered


def _tell(on_progress: OnProgress | None, at: int, done: int, lengths: Sequence[int], count: int) -> None:
    if on_progress is not None:
        on_progress(at * count + done, len(lengths) * count)
