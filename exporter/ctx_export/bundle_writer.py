"""Writes a bundle into a temporary folder beside its place, proves that it opens, then swaps it in.

A build that is killed leaves the old bundle or none, never half of one.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from types import TracebackType

from ctx_export.folders import partial_folder, put_in_place, remove_abandoned
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
        self.root = partial_folder(self.output)
        self._copy_from = copy_from

    def __enter__(self) -> BundleWriter:
        try:
            self.output.parent.mkdir(parents=True, exist_ok=True)
            remove_abandoned(self.output)
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
        _check_replaceable(self.output)
        put_in_place(self.root, self.output)
        return Bundle.open(self.output, check="sizes")


def _check_replaceable(output: Path) -> None:
    if output.is_symlink() or (output.exists() and not (output / MANIFEST).is_file()):
        raise BuildError(
            f"{output} exists and is not a bundle",
            hint="name another place with -o, or remove it yourself",
        )
