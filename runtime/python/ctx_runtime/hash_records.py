"""Files that were hashed once are vouched for by their state, as git's index does it.

When a large file was hashed, a record in the user's cache folder keeps the sha256 with the file's state: its device,
inode, size, and the times of its last changes. As long as it has that very state, it is not hashed again. FORMAT.md
says how a record is written and when it holds; the C++ runtime reads and writes the same.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from ctx_runtime.cache_folder import cache_root

_MIN_BYTES = 1 << 20
"""Smaller files are hashed faster than it is worth to know them."""
_SETTLED_NS = 2_000_000_000
"""A file that changed later than this before it is hashed can change again within one tick of its clock."""
_CHUNK = 1 << 20


def sha256_file(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with FileIO(path) as file:
        return _sha256(file)


def has_sha256(path: Path, sha256: str, *, recorded: bool) -> bool:
    """Whether a file has this sha256, in hexadecimal.

    Args:
        path: the file.
        sha256: the one that it should have.
        recorded: a record that holds will do, and one is written where there is none. For numbers, not for code.

    Raises:
        OSError: the file can't be read.
    """
    with FileIO(path) as file:
        status = os.fstat(file.fileno())
        if not recorded or status.st_size < _MIN_BYTES or os.name != "posix":
            return _sha256(file) == sha256
        if _is_recorded(status, sha256):
            return True
        with suppress(OSError):  # read-only media have nothing to sync
            os.fsync(file.fileno())
        before, began_ns = os.fstat(file.fileno()), time.time_ns()
        if _sha256(file) != sha256:
            return False
        is_settled = max(before.st_mtime_ns, before.st_ctime_ns) < began_ns - _SETTLED_NS
        if is_settled and _state(os.fstat(file.fileno())) == _state(before):
            _write_record(before, sha256)
        return True


def _sha256(file: FileIO) -> str:
    digest, buffer = hashlib.sha256(), bytearray(_CHUNK)
    view = memoryview(buffer)
    while size := file.readinto(buffer):
        digest.update(view[:size])
    return digest.hexdigest()


def _state(status: os.stat_result) -> str:
    parts = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return " ".join(map(str, parts))


def _record(status: os.stat_result, sha256: str) -> bytes:
    return f"{sha256} {_state(status)}\n".encode()


def _place(status: os.stat_result) -> Path:
    return cache_root() / "hashes" / f"{status.st_dev}-{status.st_ino}"


def _is_recorded(status: os.stat_result, sha256: str) -> bool:
    record = _record(status, sha256)
    try:
        place = _place(status)
        with _own(place.parent, os.O_DIRECTORY) as folder, _own(place.name, os.O_NONBLOCK, folder) as descriptor:
            return os.read(descriptor, len(record) + 1) == record
    except (OSError, RuntimeError):  # RuntimeError: the user has no home
        return False


@contextmanager
def _own(path: Path | str, flags: int, folder: int | None = None) -> Iterator[int]:
    """The descriptor of what only this user can write, opened for reading."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | flags, dir_fd=folder)
    try:
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise PermissionError(f"{path} can be written by others")
        yield descriptor
    finally:
        os.close(descriptor)


def _write_record(status: os.stat_result, sha256: str) -> None:
    """Write a record if that is possible; without it the file is hashed again."""
    with suppress(OSError, RuntimeError):
        place = _place(status)
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, partial = tempfile.mkstemp(prefix=".partial-", dir=place.parent)
        try:
            with FileIO(descriptor, "w") as file:
                file.write(_record(status, sha256))
            Path(partial).replace(place)
        finally:
            Path(partial).unlink(missing_ok=True)
