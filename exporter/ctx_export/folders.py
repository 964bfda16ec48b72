"""Puts a finished folder in its place in one step: who is killed on the way leaves the old folder or none."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
from pathlib import Path


def partial_folder(output: Path) -> Path:
    """Where this process fills the folder that will stand at `output`: beside it, so that it can be renamed."""
    return output.with_name(f".{output.name}.partial-{os.getpid()}")


def put_in_place(partial: Path, output: Path) -> None:
    """Sync all of `partial` and put it at `output`; the folder that stands there is removed.

    Raises:
        OSError: the disk is full, or `output` is no folder.
    """
    for path in partial.rglob("*"):
        _sync(path)
    if output.exists():
        _exchange(partial, output)
        shutil.rmtree(partial, ignore_errors=True)
    else:
        partial.rename(output)
    _sync(output.parent)


def remove_abandoned(output: Path) -> None:
    """Remove what was left by processes that were killed; one killed between two renames gives the old folder back."""
    for retired in output.parent.glob(f".{output.name}.partial-*.old"):
        if not output.exists():
            retired.rename(output)
    for partial in output.parent.glob(f".{output.name}.partial-*"):
        pid = partial.name.rpartition("-")[2]
        if not pid.isdigit() or int(pid) == os.getpid() or not _is_running(int(pid)):
            shutil.rmtree(partial, ignore_errors=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(new: Path, old: Path) -> None:
    """Swap two folders: in one step where Linux can, else by two renames, after which the old one is gone."""
    at_fdcwd, rename_exchange = -100, 2
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.renameat2(at_fdcwd, os.fsencode(new), at_fdcwd, os.fsencode(old), rename_exchange) == 0:
            return
    retired = new.with_name(new.name + ".old")
    old.rename(retired)
    new.rename(old)
    shutil.rmtree(retired, ignore_errors=True)
