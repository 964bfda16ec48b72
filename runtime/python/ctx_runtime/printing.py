"""What the commands write on stdout: lines, tables and JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable


def print_line(line: str) -> None:
    """Write a line."""
    sys.stdout.write(line + "\n")


def print_json(value: object) -> None:
    """Write one JSON value; NaN and infinity, which JSON lacks, raise ValueError."""
    print_line(json.dumps(value, indent=2, allow_nan=False))


def print_table(headings: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Write rows in columns that are as wide as their widest cell."""
    cells = [tuple(map(str, row)) for row in (headings, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        print_line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
