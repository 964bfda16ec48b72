"""Retrieval tasks of any length, and the effective context length that they measure.

The tasks are those of RULER (Hsieh et al., "RULER: What's the Real Context Size of Your Long-Context Language Models?",
2024): a *passkey* stands somewhere in filler and is asked for at the end; *multi-key* hides several and asks for one;
*variable tracking* hides chains of assignments and asks for the value at the end of one. The answer is one symbol, so
that an encoder can label the question with it and a causal model can say it as its next token.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

from tokenizers import Tokenizer

from ctx_models.data import IGNORED, Dataset, Features
from ctx_models.errors import ModelError
from ctx_models.heads import TaskModel

TaskName = Literal["passkey", "multi-key", "variable-tracking"]
Source = tuple[Literal["key", "value"], int]
"""What a fact gives to its key: a value, or what another key has."""

_ASSIGN, _ASK, _FIRST_KEY = 1, 2, 3
_KEYS = ("Alice", "Bruno", "Clara", "David", "Emma", "Frank", "Grace", "Henry", "Irene", "James", "Karl", "Laura",
         "Mary", "Nina", "Oscar", "Paul", "Rose", "Simon", "Tom", "Victor", "Walter")  # fmt: skip
_WORDS = ("horse", "cat", "dog", "lion", "bear", "duck", "fish", "wolf", "snake", "bird")
"""The values of a causal model that reads text."""
_FILLER = " The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."


@dataclass(frozen=True)
class RetrievalTask:
    """What is hidden in a document and asked for at its end.

    Attributes:
        keys: chains of facts.
        hops: assignments between the value and the key that is asked for; 0: the fact names the value itself.
        questions: how many of the chains are asked for, one after another.
    """

    keys: int = 1
    hops: int = 0
    questions: int = 1

    @classmethod
    def named(cls, name: TaskName, *, keys: int | None = None, hops: int | None = None) -> RetrievalTask:
        """The task of that name: `passkey` one key, `multi-key` four, `variable-tracking` two chains of two hops."""
        usual_keys, usual_hops = {"passkey": (1, 0), "multi-key": (4, 0), "variable-tracking": (2, 2)}[name]
        return cls(usual_keys if keys is None else keys, usual_hops if hops is None else hops)


class Wording(Protocol):
    """How facts, questions and filler are written as token ids.

    Attributes:
        keys: how many keys there are to choose from.
        values: how many values there are: the classes of an encoder.
        framing: the token ids before and after every document.
    """

    @property
    def keys(self) -> int: ...  # noqa: D102
    @property
    def values(self) -> int: ...  # noqa: D102
    @property
    def framing(self) -> tuple[list[int], list[int]]: ...  # noqa: D102

    def fact(self, key: int, source: Source) -> list[int]:
        """The tokens that give `source` to `key`."""

    def question(self, key: int) -> list[int]:
        """The tokens that ask for the value of `key`; the last of them is where the answer is expected."""

    def filler(self, count: int, rng: random.Random) -> list[int]:
        """`count` tokens that say nothing about any key."""

    def answer(self, value: int) -> int:
        """The token of `value` that follows the question in a causal document."""


@dataclass(frozen=True)
class SyntheticWording:
    """Token ids without text: 0 pads, 1 assigns, 2 asks; then `values` keys, `values` values, and the rest is filler.

    Raises:
        ModelError: `vocab_size` leaves no filler.
    """

    vocab_size: int
    values: int

    def __post_init__(self) -> None:
        if self.values < 1 or self._first_filler >= self.vocab_size:
            raise ModelError(
                f"{self.values} keys and values leave no filler in a vocabulary of {self.vocab_size}",
                hint=f"retrieval needs more than {_FIRST_KEY + 2 * max(self.values, 1)} token ids",
            )

    @property
    def keys(self) -> int:
        """As many as there are values."""
        return self.values

    @property
    def framing(self) -> tuple[list[int], list[int]]:
        """None."""
        return [], []

    def fact(self, key: int, source: Source) -> list[int]:
        """`[assign, key, value or key]`."""
        kind, index = source
        return [_ASSIGN, _FIRST_KEY + key, self.answer(index) if kind == "value" else _FIRST_KEY + index]

    def question(self, key: int) -> list[int]:
        """`[ask, key]`."""
        return [_ASK, _FIRST_KEY + key]

    def filler(self, count: int, rng: random.Random) -> list[int]:
        """Independent draws from the filler's ids."""
        return rng.choices(range(self._first_filler, self.vocab_size), k=count)

    def answer(self, value: int) -> int:
        """The id of the value."""
        return _FIRST_KEY + self.values + value

    @property
    def _first_filler(self) -> int:
        return _FIRST_KEY + 2 * self.values


@dataclass(frozen=True)
class TextWording:
    """English sentences through a tokenizer, with RULER's repeated filler.

    Attributes:
        tokenizer: from the `tokenizers` package.
        labels: the values, as words: the labels of an encoder.
    """

    tokenizer: Tokenizer
    labels: tuple[str, ...]

    @property
    def keys(self) -> int:
        """How many key words there are."""
        return len(_KEYS)

    @property
    def values(self) -> int:
        """How many labels there are."""
        return len(self.labels)

    @cached_property
    def framing(self) -> tuple[list[int], list[int]]:
        """The special tokens that the tokenizer puts around a text."""
        special: list[int] = self.tokenizer.encode("").ids
        half = (len(special) + 1) // 2
        return special[:half], special[half:]

    def fact(self, key: int, source: Source) -> list[int]:
        """`The word of Alice is horse.` or `The word of Bruno is the word of Alice.`."""
        kind, index = source
        what = self.labels[index] if kind == "value" else f"the word of {_KEYS[index]}"
        return self._encode(f" The word of {_KEYS[key]} is {what}.")

    def question(self, key: int) -> list[int]:
        """`What is the word of Alice? It is`."""
        return self._encode(f" What is the word of {_KEYS[key]}? It is")

    def filler(self, count: int, rng: random.Random) -> list[int]:
        """The same sentences again and again, from a random token on."""
        sentences = itertools.cycle(self._filler)
        skipped = rng.randrange(len(self._filler))
        return list(itertools.islice(sentences, skipped, skipped + count))

    def answer(self, value: int) -> int:
        """The first token of the label."""
        return self._encode(f" {self.labels[value]}")[0]

    @cached_property
    def _filler(self) -> list[int]:
        return self._encode(_FILLER)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def wording_for(model: TaskModel, tokenizer: Tokenizer | None) -> Wording:
    """How documents for `model` are written: as text where there is a tokenizer, as bare token ids otherwise.

    The values are the model's labels; those of a causal model ten words or, without a tokenizer, as many as there are
    keys and fillers.

    Raises:
        ModelError: the model's task is no token classification and no text generation, or the tokenizer begins several
            values with the same token.
    """
    if model.task not in ("token-classification", "text-generation"):
        raise ModelError(
            f"a model for {model.task} can't answer with a symbol",
            hint="retrieval tasks are for token-classification and text-generation",
        )
    if tokenizer is not None:
        return TextWording(tokenizer, model.labels) if model.labels else text_wording(tokenizer)
    vocabulary = model.config.vocab_size
    return SyntheticWording(vocabulary, len(model.labels) or (vocabulary - _FIRST_KEY) // 3)


def text_wording(tokenizer: Tokenizer) -> TextWording:
    """How documents for a causal model that reads text are written, with ten words as values.

    Raises:
        ModelError: the tokenizer begins several values with the same token.
    """
    wording = TextWording(tokenizer, _WORDS)
    if len(set(map(wording.answer, range(wording.values)))) < wording.values:
        raise ModelError(f"the tokenizer begins several of {', '.join(_WORDS)} with the same token")
    return wording


def retrieval_dataset(
    model: TaskModel, wording: Wording, task: RetrievalTask, *, lengths: Sequence[int], count: int, seed: int
) -> Dataset:
    """`count` documents of each of the lengths, as `model` takes and answers them; see `documents`."""
    causal = model.task == "text-generation"
    made = [documents(task, wording, length=length, count=count, seed=seed, causal=causal) for length in lengths]
    return Dataset(model.task, model.labels, tuple(itertools.chain(*made)), model.config.pad_id)


def documents(
    task: RetrievalTask, wording: Wording, *, length: int, count: int, seed: int, causal: bool = False
) -> Iterator[Features]:
    """`count` documents of exactly `length` tokens; the same for the same seed.

    The last token of each question is labelled: with the value's class for an encoder, with the token of the value
    for a causal model, whose documents go on with it.

    Raises:
        ModelError: more keys than the wording has, or a length that does not hold the facts and the questions.
    """
    needed = task.keys * (task.hops + 1)
    if not 1 <= task.questions <= task.keys or task.hops < 0 or needed > wording.keys or wording.values < 1:
        raise ModelError(
            f"{task.questions} questions about {task.keys} keys with {task.hops} hops need {needed} keys and a value, "
            f"the vocabulary has {wording.keys} and {wording.values}",
            hint="ask for fewer keys or hops, or take a larger vocabulary",
        )
    rng = random.Random(f"{seed}/{length}")  # noqa: S311  (data, not secrets)
    for _ in range(count):
        yield _document(task, wording, length, causal, rng)


def effective_context_length(scores: Mapping[int, float], bar: float) -> int | None:
    """The longest length whose score, and that of every shorter one, stands above `bar`; None if none does.

    Args:
        scores: length in tokens -> score, such as the accuracy of a retrieval task.
        bar: RULER takes the score of a reference model at 4k tokens.
    """
    above = itertools.takewhile(lambda length: scores[length] > bar, sorted(scores))
    return max(above, default=None)


def _document(task: RetrievalTask, wording: Wording, length: int, causal: bool, rng: random.Random) -> Features:
    prefix, suffix = wording.framing
    keys = rng.sample(range(wording.keys), task.keys * (task.hops + 1))
    chains = [keys[start : start + task.hops + 1] for start in range(0, len(keys), task.hops + 1)]
    values = [rng.randrange(wording.values) for _ in chains]
    facts = _interleave([_facts(chain, value) for chain, value in zip(chains, values, strict=True)], rng)
    end: list[int] = []
    labels: list[int] = []
    for asked in rng.sample(range(task.keys), task.questions):
        question, answer = wording.question(chains[asked][-1]), [wording.answer(values[asked])] if causal else []
        labels += [*[IGNORED] * (len(question) - 1), *(answer or [values[asked]]), *[IGNORED] * len(answer)]
        end += question + answer
    room = length - len(prefix + end + suffix)
    content = _hide([wording.fact(*fact) for fact in facts], wording, room, rng)
    labels = [*[IGNORED] * (len(prefix) + room), *labels, *[IGNORED] * len(suffix)]
    return Features(((*prefix, *content, *end, *suffix),), tuple(labels))


def _facts(chain: Sequence[int], value: int) -> list[tuple[int, Source]]:
    """The assignments of one chain in order: its first key has the value, each further key what the one before has."""
    first: tuple[int, Source] = (chain[0], ("value", value))
    return [first, *((key, ("key", before)) for before, key in itertools.pairwise(chain))]


def _interleave(chains: list[list[tuple[int, Source]]], rng: random.Random) -> list[tuple[int, Source]]:
    """The facts of all chains in random order, those of each chain in their own."""
    turns = [index for index, chain in enumerate(chains) for _ in chain]
    rng.shuffle(turns)
    queues = [iter(chain) for chain in chains]
    return [next(queues[turn]) for turn in turns]


def _hide(facts: list[list[int]], wording: Wording, length: int, rng: random.Random) -> list[int]:
    """The facts in order at random places of filler, `length` tokens in all."""
    room = length - sum(map(len, facts))
    if room < 0:
        raise ModelError(
            f"{len(facts)} facts and a question do not fit: {-room} tokens are missing", hint="ask for a longer length"
        )
    cuts = sorted(rng.randint(0, room) for _ in facts)
    filler = wording.filler(room, rng)
    pieces = [filler[start:end] for start, end in itertools.pairwise([0, *cuts, room])]
    return [*itertools.chain(*(piece + fact for piece, fact in zip(pieces, facts, strict=False))), *pieces[-1]]
