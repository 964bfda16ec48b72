"""Writes a bundle into a temporary folder beside its place, proves that it opens, then swaps it in.

A build that is killed leaves the old bundle or none, never half of one.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
from pathlib import Path
from types import TracebackType

from ctx_runtime.bundle import Bundle, canonical_json
from ctx_runtime.errors import BuildError
from ctx_runtime.hash_records import sha256_file
from ctx_runtime.manifest import FileRecord, Manifest

MANIFEST = "manifest.json"


class BundleWriter:
    """A context manager: `root` is the folder to fill, `publish()` puts it in place.

    Args:
        output: where the bundle will stand; an older bundle there is replaced, anything else is refused.
        copy_from: a bundle to start from.

    Raises:
        BuildError: `output` exists and is not a bundle, or its parent can't be written.
    """

    def __init__(self, output: Path, *, copy_from: Bundle | None = None) -> None:
        self.output = Path.cwd() / output
        _check_replaceable(self.output)
        self.root = self.output.with_name(f".{self.output.name}.partial-{os.getpid()}")
        self._copy_from = copy_from

    def __enter__(self) -> BundleWriter:
        try:
            self.output.parent.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(self.output)
            if self._copy_from is None:
                self.root.mkdir()
            else:
                shutil.copytree(self._copy_from.root, self.root)
                (self.root / MANIFEST).unlink()
        except OSError as error:
            raise BuildError(f"can't write a bundle at {self.output}: {error.strerror or error}") from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        shutil.rmtree(self.root, ignore_errors=True)

    def write_manifest(self, manifest: Manifest) -> Manifest:
        """List every file of the folder with its size and sha256, and write `manifest.json` beside them."""
        manifest_path = self.root / MANIFEST
        files = sorted(path for path in self.root.rglob("*") if path.is_file() and path != manifest_path)
        records = tuple(
            FileRecord(path=path.relative_to(self.root).as_posix(), bytes=path.stat().st_size, sha256=sha256_file(path))
            for path in files
        )
        manifest = manifest.model_copy(update={"files": records})
        manifest_path.write_bytes(canonical_json(manifest))
        return manifest

    def publish(self) -> Bundle:
        """Open the finished folder as a reader would, then put it in its place.

        Raises:
            BundleError: what was written is not a sound bundle.
        """
        Bundle.open(self.root, check="full")
        for path in self.root.rglob("*"):
            _sync(path)
        _check_replaceable(self.output)
        if self.output.exists():
            _exchange(self.root, self.output)
        else:
            self.root.rename(self.output)
        _sync(self.output.parent)
        return Bundle.open(self.output, check="sizes")


def _check_replaceable(output: Path) -> None:
    if output.is_symlink() or (output.exists() and not (output / MANIFEST).is_file()):
        raise BuildError(
            f"{output} exists and is not a bundle",
            hint="name another place with -o, or remove it yourself",
        )


def _remove_abandoned(output: Path) -> None:
    """Remove the folders of builds that were killed; one killed between the two renames gives the old bundle back."""
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
    """Swap two folders: in one step where Linux can, else by two renames."""
    at_fdcwd, rename_exchange = -100, 2
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.renameat2(at_fdcwd, os.fsencode(new), at_fdcwd, os.fsencode(old), rename_exchange) == 0:
            return
    retired = new.with_name(new.name + ".old")
    old.rename(retired)
    new.rename(old)
    shutil.rmtree(retired, ignore_errors=True)
