"""Holds the sizes that keep the code readable: lines a file and lines of code a function, docstrings not counted.

Usage: python scripts/sizes.py
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("exporter", "runtime/python", "scripts", "tests", "benchmarks", "samples")
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 45


def main() -> int:
    """Print each file and function that is too long; 1 if there is one."""
    problems = [
        problem for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py")) for problem in check(path)
    ]
    print("\n".join(problems) if problems else "sizes: no file or function is too long")
    return 1 if problems else 0


def check(path: Path) -> Iterator[str]:
    """One line for the file, if it is too long, and one for each such function."""
    text = path.read_text(encoding="utf-8")
    name = path.relative_to(ROOT)
    if (lines := text.count("\n")) > MAX_FILE_LINES:
        yield f"{name}: {lines} lines, at most {MAX_FILE_LINES}"
    for node in ast.walk(ast.parse(text)):
        if (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and (lines := code_lines(node)) > MAX_FUNCTION_LINES
        ):
            yield f"{name}:{node.lineno}: {node.name} has {lines} lines of code, at most {MAX_FUNCTION_LINES}"


def code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from the first of the signature to the last, without the docstring."""
    end = node.end_lineno or node.lineno
    docstring = node.body[0] if ast.get_docstring(node) is not None else None
    documented = (docstring.end_lineno or 0) - docstring.lineno + 1 if docstring else 0
    return end - node.lineno + 1 - documented


if __name__ == "__main__":
    sys.exit(main())
