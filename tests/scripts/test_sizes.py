"""The size limits name the file and the function that is too long."""

from pathlib import Path

import pytest

from scripts import sizes


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sizes, "ROOT", tmp_path)
    return tmp_path


def function(lines: int, *, docstring: int = 0) -> str:
    documented = '    """Do it.\n' + "\n" * (docstring - 2) + '    """\n' if docstring else ""
    return "def long():\n" + documented + "    pass\n" * (lines - 1)


def test_a_long_function_is_named_and_its_docstring_does_not_count(root: Path) -> None:
    path = root / "a.py"
    path.write_text(function(45, docstring=30))
    assert list(sizes.check(path)) == []
    path.write_text(function(46))
    assert list(sizes.check(path)) == ["a.py:1: long has 46 lines of code, at most 45"]


def test_a_long_file_is_named(root: Path) -> None:
    path = root / "a.py"
    path.write_text("x = 1\n" * 501)
    assert list(sizes.check(path)) == ["a.py: 501 lines, at most 500"]
