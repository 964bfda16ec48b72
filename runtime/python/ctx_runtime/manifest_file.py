"""Reads `manifest.json` as strictly as `FORMAT.md` asks, and writes it."""

from __future__ import annotations

import json
import math
import re
from typing import NoReturn

from pydantic import ValidationError

from ctx_runtime.errors import BundleError, first_problem
from ctx_runtime.manifest import FORMAT, Manifest

MAX_MANIFEST_BYTES = 4 << 20
MAX_NESTING = 32
_STRING = re.compile(r'"(?:[^"\\]|\\.?)*(?:"|\Z)', re.DOTALL)
"""A string of JSON; one that is never closed reaches to the end, so that a search reads each character once."""


def canonical_json(manifest: Manifest) -> bytes:
    """What is written: keys sorted, indented by two spaces, ASCII, with a newline at the end."""
    values = manifest.model_dump(mode="json")
    return (json.dumps(values, sort_keys=True, indent=2, allow_nan=False) + "\n").encode("ascii")


def parse_manifest(data: bytes) -> Manifest:
    """The manifest that the bytes of `manifest.json` hold.

    Raises:
        BundleError: `manifest-syntax`, `format-unsupported` or `manifest-schema`.
    """
    values = _parse_json(data)
    if not isinstance(values, dict):
        raise BundleError("manifest-schema", "manifest.json is not an object")
    number = values.get("format")
    if type(number) is int and number > FORMAT:
        raise BundleError(
            "format-unsupported",
            f"the bundle has format {number}, this reader knows formats up to {FORMAT}",
            hint="pip install --upgrade ctx-export",
        )
    try:
        return Manifest.model_validate(values)
    except ValidationError as error:
        raise BundleError("manifest-schema", f"manifest.json: {_first_line(error)}") from error


def _parse_json(data: bytes) -> object:
    if len(data) > MAX_MANIFEST_BYTES:
        raise BundleError("manifest-syntax", f"manifest.json has more than {MAX_MANIFEST_BYTES} bytes")
    try:
        text = data.decode("utf-8")
        _check_nesting(text)
        values: object = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_int=_parse_integer,
            parse_float=_parse_float,
        )
        json.dumps(values, ensure_ascii=False).encode()  # fails at half of a surrogate pair, written as an escape
        return values
    except ValueError as error:
        raise BundleError("manifest-syntax", _one_line(f"manifest.json is not JSON: {error}")) from error


def _check_nesting(text: str) -> None:
    depth = 0
    for character in _STRING.sub("", text):
        depth += (character in "[{") - (character in "]}")
        if depth > MAX_NESTING:
            raise ValueError(f"it nests more than {MAX_NESTING} levels")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values: dict[str, object] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"the key {key!r} comes twice")
        values[key] = value
    return values


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _parse_integer(digits: str) -> int:
    value = int(digits) if len(digits) <= 20 else 1 << 64
    if not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"{digits[:24]} is not a 64-bit integer")
    return value


def _parse_float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits[:24]} is too large")
    return value


def _first_line(error: ValidationError) -> str:
    """The first problem: `buckets.1.max_length: Input should be …`."""
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return _one_line(first_problem(error).replace("Value error, ", "", 1) + more)


def _one_line(text: str) -> str:
    """`text` as any terminal can show it; it may quote what the file holds."""
    return " ".join(text.encode("ascii", "backslashreplace").decode().split())
