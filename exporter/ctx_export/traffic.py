"""Reads how long inputs are: from numbers, tables, texts with a tokenizer, or what a runtime has recorded."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from ctx_runtime.errors import InputError, MissingExtraError
from ctx_runtime.histogram import LengthHistogram

Split = Literal["file", "paragraph", "line"]
"""What one input is, in a folder of texts."""

_Measure = Callable[[object, str], int]
"""The tokens of a value, and where it stands: `lengths.csv:7`."""

_MOST_DIGITS = 32
"""Longer texts of digits are no lengths, and slow to read."""


def read_traffic(
    path: Path, *, column: str = "length", tokenizer: Path | None = None, split: Split = "file"
) -> LengthHistogram:
    """The lengths of the inputs that `path` holds.

    Args:
        path: a folder of `.txt` files; `.csv`, `.jsonl` or `.parquet` with a column; `.json`, the histogram that a
            runtime has recorded; any other file: one number a line, `#` starts a comment.
        column: of a table: numbers of tokens, or texts where a tokenizer is given.
        tokenizer: a `tokenizer.json`, or a folder of a model or bundle that holds one.
        split: what one input is in a folder of texts.

    Raises:
        InputError: nothing to read, or a value that is not a length; the message says where.
        MissingExtraError: `pyarrow`, for Parquet, or `tokenizers` is not installed.
    """
    measure = _number if tokenizer is None else _text_measure(tokenizer)
    try:
        if path.is_dir():
            if tokenizer is None:
                raise InputError(
                    f"{path} is a folder of texts", hint="give --tokenizer: a tokenizer.json or its folder"
                )
            values: Iterator[tuple[object, str]] = _texts(path, split)
        elif path.suffix == ".json":
            return LengthHistogram.from_json(path.read_bytes())
        else:
            reader = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}.get(path.suffix)
            values = _lines(path) if reader is None else reader(path, column)
        lengths = [measure(value, where) for value, where in values]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} can't be read: {error}", hint="give a file of lengths or a folder of texts"
        ) from error
    if not lengths:
        raise InputError(f"{path} holds no input", hint="give one number of tokens for each input")
    return LengthHistogram.of(lengths)


def _number(value: object, where: str) -> int:
    if isinstance(value, str) and value.strip().isdecimal() and len(value) < _MOST_DIGITS:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        shown = repr(value)[:40]
        raise InputError(f"{where}: {shown} is not a number of tokens", hint="give --tokenizer if these are texts")
    return value


def _text_measure(path: Path) -> _Measure:
    """Counts the tokens of a text, those that frame it included, never truncated."""
    try:
        import tokenizers  # noqa: PLC0415 (optional)
    except ImportError as error:
        raise MissingExtraError("tokenizers", "cpu", purpose="counting the tokens of texts") from error
    places = [path, path / "tokenizer.json", path / "tokenizer/tokenizer.json"]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise InputError(f"there is no tokenizer.json in {path}", hint="give a tokenizer.json, or a folder with one")
    try:
        encoder: Any = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the package raises bare Exceptions
        raise InputError(f"{file} is not a tokenizer: {error}") from error
    encoder.no_truncation()
    encoder.no_padding()

    def measure(value: object, where: str) -> int:
        if not isinstance(value, str):
            raise InputError(f"{where}: {value!r:.40} is not a text", hint="leave --tokenizer out if these are lengths")
        return len(encoder.encode(value).ids)

    return measure


def _texts(folder: Path, split: Split) -> Iterator[tuple[object, str]]:
    pattern = {"file": None, "paragraph": r"\n\s*\n", "line": r"\n"}[split]
    for path in sorted(folder.rglob("*.txt")):
        text = path.read_text(encoding="utf-8")
        for part in [text] if pattern is None else re.split(pattern, text):
            if part.strip():
                yield part, str(path)


def _lines(path: Path) -> Iterator[tuple[object, str]]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        content = line.partition("#")[0].strip()
        if content:
            yield content, f"{path}:{number}"


def _csv(path: Path, column: str) -> Iterator[tuple[object, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        table = csv.DictReader(file)
        _require(column, table.fieldnames or (), path)
        for row in table:
            yield row[column], f"{path}:{table.line_num}"


def _jsonl(path: Path, column: str) -> Iterator[tuple[object, str]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise InputError(f"{path}:{number}: not JSON: {error}", hint="one JSON object a line") from None
            if not isinstance(row, dict):
                raise InputError(f"{path}:{number}: not a JSON object", hint="one JSON object a line")
            _require(column, row, f"{path}:{number}")
            yield row[column], f"{path}:{number}"


def _parquet(path: Path, column: str) -> Iterator[tuple[object, str]]:
    try:
        import pyarrow  # noqa: PLC0415 (optional)
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError("pyarrow", "plan", purpose="reading Parquet") from error
    try:
        with parquet.ParquetFile(path) as file:
            _require(column, file.schema_arrow.names, path)
            values = file.read(columns=[column]).column(column).to_pylist()
    except pyarrow.ArrowException as error:
        raise InputError(f"{path} is not a Parquet file: {error}") from error
    for number, value in enumerate(values, 1):
        yield value, f"{path}: row {number}"


def _require(column: str, names: Iterable[object], where: object) -> None:
    if column not in names:
        raise InputError(
            f"{where} has no column {column!r}", hint=f"--column takes one of: {', '.join(map(str, names)) or 'none'}"
        )
