"""Examples to token ids and labels, through the tokenizer that ships with the model."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tokenizers import Encoding, Tokenizer

from ctx_models.data.reading import Example, LabelledText, PlainText, TaggedWords
from ctx_models.errors import ModelError
from ctx_models.heads import Task

IGNORED = -100
"""The label of a token that is not to be predicted; what PyTorch's cross entropy leaves out by default."""

_SHOWN = 12
"""Labels that a message lists."""
_SPAN = re.compile(r"[BIESLU]-\S+")


@dataclass(frozen=True)
class Features:
    """An example as the model takes it.

    Attributes:
        texts: token ids of its texts: one; for retrieval the query, its positive and, if there is one, its negative.
        labels: indices into the labels: one a token, with `IGNORED` where there is nothing to predict; one for a text's
            class; none for retrieval. For text generation, the id of the token that follows.
    """

    texts: tuple[tuple[int, ...], ...]
    labels: tuple[int, ...] = ()

    @property
    def length(self) -> int:
        """Tokens of its longest text."""
        return max(map(len, self.texts))


@dataclass(frozen=True)
class Dataset:
    """Encoded examples of one task.

    Attributes:
        task: what is learned from them.
        labels: the names that label indices refer to; empty for retrieval and text generation.
        features: the examples.
        pad_id: what fills short rows of a batch.
        cut: how many examples were longer than the model takes, and cut.
    """

    task: Task
    labels: tuple[str, ...]
    features: tuple[Features, ...]
    pad_id: int
    cut: int = 0

    @property
    def sha256(self) -> str:
        """Of task, labels and features: the same data has the same."""
        total = hashlib.sha256(repr((self.task, self.labels, self.pad_id)).encode())
        for example in self.features:
            total.update(repr((example.texts, example.labels)).encode())
        return total.hexdigest()


def label_set(examples: Iterable[Example]) -> tuple[str, ...]:
    """The labels that occur: `O` first, the others sorted.

    Raises:
        ModelError: the tags of tokens mark spans (`B-PER`, `I-PER`, `O`), and one of them does not.
    """
    first: dict[str, str] = {}
    for example in examples:
        if isinstance(example, TaggedWords):
            for index, tag in enumerate(example.tags):
                first.setdefault(tag, example.place_of(index))
        elif isinstance(example, LabelledText):
            first.setdefault(example.label, example.place)
    if "O" in first and any(_SPAN.fullmatch(tag) for tag in first):
        for tag, place in first.items():
            if tag != "O" and not _SPAN.fullmatch(tag):
                raise ModelError(f"{place}: {tag!r} is no tag of a span", hint="tags are O, B-NAME, I-NAME, …")
    return tuple(sorted(first, key=lambda label: (label != "O", label)))


def encode_examples(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    *,
    task: Task,
    labels: tuple[str, ...],
    max_length: int | None,
    pad_id: int,
) -> Dataset:
    """Token ids and labels of `examples`, which are all of `task`.

    A word's tag goes to its first sub-word; the others, and the special tokens, are `IGNORED`. A word of which the
    tokenizer makes nothing has no token to label. An example longer than the model takes loses its end, which
    `Dataset.cut` counts.

    Args:
        examples: what `read_examples` read.
        tokenizer: its padding is turned off, and its truncation set to `max_length`, or off.
        task: what is learned.
        labels: those that the model knows, in the order of its outputs.
        max_length: tokens of the longest text that the model takes, special tokens included; None: any.
        pad_id: what fills short rows of a batch.

    Raises:
        ModelError: a label is not one of `labels`, or nothing of an example is left to learn from.
    """
    indices = {label: index for index, label in enumerate(labels)}
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if max_length is not None:
        tokenizer.enable_truncation(max_length)
    encoded = [_encode(example, tokenizer, indices) for example in examples]
    cut = sum(any(text.overflowing for text in texts) for texts, _ in encoded)
    features = tuple(Features(tuple(tuple(text.ids) for text in texts), labels) for texts, labels in encoded)
    return Dataset(task, labels, features, pad_id, cut)


def _encode(
    example: Example, tokenizer: Tokenizer, indices: Mapping[str, int]
) -> tuple[tuple[Encoding, ...], tuple[int, ...]]:
    """The encodings of an example's texts, and its labels."""
    if isinstance(example, TaggedWords):
        tokens = tokenizer.encode(example.words, is_pretokenized=True)
        return (tokens,), _word_labels(example, tokens, indices)
    if isinstance(example, LabelledText):
        return (tokenizer.encode(example.text),), (_index(example.label, indices, example.place),)
    if isinstance(example, PlainText):
        tokens = tokenizer.encode(example.text)
        if len(tokens.ids) < 2:
            raise ModelError(f"{example.place}: has no token that follows another", hint="give a longer text")
        return (tokens,), (*tokens.ids[1:], IGNORED)
    texts = (example.query, example.positive, *([example.negative] if example.negative else []))
    return tuple(tokenizer.encode(text) for text in texts), ()


def _word_labels(example: TaggedWords, tokens: Encoding, indices: Mapping[str, int]) -> tuple[int, ...]:
    """The label of each token: that of the word that it begins."""
    labels = []
    previous = None
    for word in tokens.word_ids:
        if word is None or word == previous:
            labels.append(IGNORED)
        else:
            labels.append(_index(example.tags[word], indices, example.place_of(word)))
        previous = word
    if all(label == IGNORED for label in labels):
        raise ModelError(f"{example.place}: the tokenizer makes no token of its words", hint="remove the sentence")
    return tuple(labels)


def _index(label: str, indices: Mapping[str, int], place: str) -> int:
    if label not in indices:
        known = ", ".join(list(indices)[:_SHOWN]) + (", …" if len(indices) > _SHOWN else "")
        raise ModelError(f"{place}: the label {label!r} was not seen in training", hint=f"the labels are {known}")
    return indices[label]
