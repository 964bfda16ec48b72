"""Counts the lengths of what comes in, in a file that `ctx-runtime stats` and `ctx-export plan` read."""

from __future__ import annotations

import json
import threading
import time
import warnings
from collections import Counter
from pathlib import Path

from ctx_runtime.errors import InputError
from ctx_runtime.histogram import LengthHistogram

_SAVE_EVERY_S = 60.0
"""What a killed process loses at most."""


class LengthRecorder:
    """A histogram of lengths that outlives the process. `note` may be called from several threads at once.

    Args:
        path: the file, written by one process at a time; what it holds already is counted on.

    Raises:
        InputError: the file is there and holds no histogram, or its folder is missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._counts: Counter[int] = Counter()
        self._lock = threading.Lock()
        self._saved = time.monotonic()
        self._told = False
        if path.exists():
            self._counts.update(read_recorded(path).counts_by_length())
        elif not path.parent.is_dir():
            raise InputError(f"{path.parent} is not a folder", hint="make it, or record somewhere else")

    def note(self, length: int) -> None:
        """Count an input of `length` tokens; once a minute the file is written."""
        with self._lock:
            self._counts[length] += 1
            if time.monotonic() - self._saved > _SAVE_EVERY_S:
                self._save()

    def close(self) -> None:
        """Write the file."""
        with self._lock:
            self._save()

    def _save(self) -> None:
        """Replace the file; where that fails, the counts are kept and the reason is told once: inputs go on running."""
        self._saved = time.monotonic()
        if not self._counts:
            return
        partial = self._path.with_name(f".{self._path.name}.partial")
        try:
            partial.write_text(json.dumps({"lengths": dict(sorted(self._counts.items()))}))
            partial.replace(self._path)
        except OSError as error:
            if not self._told:
                warnings.warn(f"lengths can't be recorded in {self._path}: {error}", RuntimeWarning, stacklevel=3)
            self._told = True


def read_recorded(path: Path) -> LengthHistogram:
    """The histogram in a recorded file.

    Raises:
        InputError: it can't be read, or holds none.
    """
    try:
        return LengthHistogram.from_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}", hint="give a file of recorded lengths") from error
    except InputError as error:
        raise InputError(f"{path}: {error}", hint=error.hint) from None
