"""A content-addressed cache of build stages: a stage that was done before, from the same inputs, is not done again."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType


def default_cache_dir() -> Path:
    """`$CTX_EXPORT_CACHE`, else `$XDG_CACHE_HOME/ctx-export`, else `~/.cache/ctx-export`."""
    if configured := os.environ.get("CTX_EXPORT_CACHE"):
        return Path(configured)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ctx-export"


def digest(*parts: object) -> str:
    """The sha256 of JSON-able parts, in hex."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def code_digest(*modules: ModuleType) -> str:
    """The sha256 of the modules' source, so that a stage is done again after its code changed."""
    sources = (Path(module.__file__).read_bytes() for module in modules if module.__file__)
    return hashlib.sha256(b"\0".join(sources)).hexdigest()


class BuildCache:
    """Folders by stage and key; an entry is there whole or not at all.

    Args:
        root: where the entries live.
        limit_bytes: entries used longest ago go when the cache has grown beyond it.
    """

    def __init__(self, root: Path, *, limit_bytes: int = 20 * 2**30) -> None:
        self._root = root
        self._limit_bytes = limit_bytes

    def fetch(self, stage: str, key: str, make: Callable[[Path], None]) -> tuple[Path, bool]:
        """The folder of an entry, and whether it was there already; `make` fills the folder of one that was not.

        An entry that another build published meanwhile is taken: both hold the same.
        """
        entry = self._root / stage / key
        if entry.is_dir():
            os.utime(entry)
            return entry, True
        entry.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=entry.parent))
        try:
            make(partial)
            partial.rename(entry)
        except OSError:
            if not entry.is_dir():
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        self._prune(keep=entry)
        return entry, False

    def _prune(self, *, keep: Path) -> None:
        entries = sorted(self._root.glob("*/*"), key=lambda entry: entry.stat().st_mtime, reverse=True)
        total = 0
        for entry in entries:
            total += sum(file.stat().st_size for file in entry.rglob("*") if file.is_file())
            if total > self._limit_bytes and entry != keep:
                shutil.rmtree(entry, ignore_errors=True)
