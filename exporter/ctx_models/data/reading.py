"""Files of examples: CoNLL columns and JSONL. Whatever is wrong is one line that names the file and the line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from ctx_models.errors import ModelError
from ctx_models.heads import Task

_DOCUMENT_START = "-DOCSTART-"


@dataclass(frozen=True)
class TaggedWords:
    """A sentence whose words each have a tag.

    Attributes:
        words: at least one.
        tags: one for each word.
        place: `file:line` of its first word, for messages.
        lines: the line of each word; one for all in JSONL.
    """

    words: tuple[str, ...]
    tags: tuple[str, ...]
    place: str
    lines: tuple[int, ...]

    def place_of(self, word: int) -> str:
        """`file:line` of a word."""
        return f"{self.place.rpartition(':')[0]}:{self.lines[word]}"


@dataclass(frozen=True)
class LabelledText:
    """A text of one class."""

    text: str
    label: str
    place: str


@dataclass(frozen=True)
class RetrievalPair:
    """A query, a text that answers it, and perhaps one that does not."""

    query: str
    positive: str
    negative: str | None
    place: str


@dataclass(frozen=True)
class PlainText:
    """A text whose every token is to be foretold from those before it."""

    text: str
    place: str


Example: TypeAlias = TaggedWords | LabelledText | RetrievalPair | PlainText


def read_examples(path: Path, task: Task) -> tuple[Example, ...]:
    """The examples of a file: `.jsonl` holds JSON, anything else CoNLL columns.

    CoNLL columns stand apart by tabs, or else by blanks; the first is the word, the last its tag; a blank line ends a
    sentence, and a line of `-DOCSTART-` is left out. JSONL has one object a line: `{"tokens": […], "tags": […]}`,
    `{"text", "label"}`, `{"query", "positive"}` with an optional `negative`, or `{"text"}`, by task.

    Raises:
        ModelError: the file can't be read, holds no example, or a line of it is not of that form.
    """
    numbered = _lines(path)
    if path.suffix == ".jsonl":
        examples = [_read_object(line, task, f"{path}:{number}") for number, line in numbered if line.strip()]
    elif task == "token-classification":
        examples = list(_read_conll(path, numbered))
    else:
        raise ModelError(f"{path}: {task} is learned from JSONL", hint="name the file .jsonl, one JSON object a line")
    if not examples:
        raise ModelError(f"{path}: holds no example", hint="give a file with at least one example")
    return tuple(examples)


def _lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a UTF-8 file with their numbers, from 1."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}", hint="check the path") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ModelError(f"{path}:{line}: is not UTF-8", hint="save the file as UTF-8") from error
    return list(enumerate(text.split("\n"), start=1))


def _read_conll(path: Path, numbered: Sequence[tuple[int, str]]) -> Iterator[TaggedWords]:
    rows: list[tuple[int, str, str]] = []
    width: int | None = None
    for number, line in (*numbered, (0, "")):
        columns = line.rstrip("\r").split("\t") if "\t" in line else line.split()
        if not line.strip() or columns[0] == _DOCUMENT_START:
            if rows:
                lines, words, tags = zip(*rows, strict=True)
                yield TaggedWords(words, tags, f"{path}:{lines[0]}", lines)
            rows = []
            continue
        width = width or len(columns)
        _check_columns(columns, width, f"{path}:{number}")
        rows.append((number, columns[0], columns[-1]))


def _check_columns(columns: Sequence[str], width: int, place: str) -> None:
    hint = "a line is a word, then its columns, then its tag; all lines have as many; a blank line ends a sentence"
    if len(columns) < 2:
        raise ModelError(f"{place}: one column, expected a word and a tag", hint=hint)
    if len(columns) != width:
        raise ModelError(f"{place}: {len(columns)} columns, the lines before have {width}", hint=hint)
    if not columns[0].strip() or not columns[-1].strip():
        raise ModelError(f"{place}: the {'word' if columns[-1].strip() else 'tag'} is empty", hint=hint)


def _read_object(line: str, task: Task, place: str) -> Example:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{place}: is no JSON: {error}", hint="one JSON object a line") from error
    if not isinstance(value, dict):
        raise ModelError(f"{place}: expected a JSON object", hint="one JSON object a line")
    if task == "token-classification":
        return _tagged(value, place)
    if task == "text-classification":
        return LabelledText(_text(value, "text", place), _text(value, "label", place), place)
    if task == "text-generation":
        return PlainText(_text(value, "text", place), place)
    negative = _text(value, "negative", place) if "negative" in value else None
    return RetrievalPair(_text(value, "query", place), _text(value, "positive", place), negative, place)


def _tagged(value: Mapping[str, object], place: str) -> TaggedWords:
    words, tags = _texts(value, "tokens", place), _texts(value, "tags", place)
    if len(words) != len(tags):
        raise ModelError(f"{place}: {len(words)} tokens and {len(tags)} tags", hint="give every token one tag")
    return TaggedWords(words, tags, place, (int(place.rpartition(":")[2]),) * len(words))


def _texts(value: Mapping[str, object], key: str, place: str) -> tuple[str, ...]:
    found = value.get(key)
    if not isinstance(found, list) or not found or not all(isinstance(item, str) and item.strip() for item in found):
        raise ModelError(f"{place}: {key!r} is no list of words", hint='{"tokens": ["Paris", …], "tags": ["B-LOC", …]}')
    return tuple(found)


def _text(value: Mapping[str, object], key: str, place: str) -> str:
    found = value.get(key)
    if not isinstance(found, str) or not found.strip():
        raise ModelError(f"{place}: {key!r} is {'missing' if found is None else 'no text'}", hint="give it as a string")
    return found
