"""The folder that ships. A `Bundle` keeps every rule of `FORMAT.md`, checked before any backend sees a byte.

A bundle never changes in place: a new one is written beside it and renamed. The reader relies on that. It checks what
the folder holds while it is opened; it can't see a file that is replaced later, under a runtime that uses it.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ctx_runtime.errors import BundleError
from ctx_runtime.golden_syntax import check_golden
from ctx_runtime.hash_records import has_sha256
from ctx_runtime.manifest import FileRecord, GraphTensor, Manifest, TensorSpec
from ctx_runtime.manifest_file import MAX_MANIFEST_BYTES, canonical_json, parse_manifest
from ctx_runtime.onnx_scan import MAX_GRAPH_BYTES, GraphContract, scan_graph
from ctx_runtime.weight_ranges import WeightRange, check_ranges

__all__ = ["MANIFEST", "Bundle", "Check", "canonical_json"]

MANIFEST = "manifest.json"
_PATH = re.compile(r"(?:[A-Za-z0-9._+-]{0,254}[A-Za-z0-9_+-]/){0,7}[A-Za-z0-9._+-]{0,254}[A-Za-z0-9_+-]")

Check = Literal["changed", "full", "sizes"]
"""What is hashed at opening: all but weights that are recorded and have not changed since; all; nothing."""
MaskUse = Literal["required", "allowed", "refused"]


@dataclass(frozen=True)
class Bundle:
    """An opened bundle.

    Attributes:
        root: its folder, without links.
        manifest_sha256: of the bytes of `manifest.json`; it names the bundle, since the manifest lists every file.
        check: what was hashed; what this device keeps of the bundle is checked likewise.
    """

    root: Path
    manifest: Manifest
    manifest_sha256: str
    check: Check = field(default="changed", compare=False)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, check: Check = "changed") -> Bundle:
        """Check the bundle at `path`, which may be a link to it.

        Args:
            path: the folder.
            check: `changed` checks all of `FORMAT.md`, but believes this user's own record of the hash of weights
                that have not changed since; `full` hashes them too; `sizes` leaves out all hashes, for a bundle that
                was just written.

        Raises:
            BundleError: its `code` says which rule the bundle breaks.
        """
        root, data = _read_manifest(path)
        manifest = parse_manifest(data)
        _check_listed_paths(manifest)
        _check_buckets(manifest)
        _check_references(manifest)
        try:
            _check_tree(root, manifest)
            if check != "sizes":
                _check_hashes(root, manifest, check)
            _check_graphs(root, manifest)
            for golden, shortest in _golden_files(manifest):
                check_golden(root / golden, manifest, shortest=shortest)
        except OSError as error:
            raise BundleError("file-missing", f"{error.filename} can't be read: {error.strerror}") from error
        return cls(root, manifest, hashlib.sha256(data).hexdigest(), check)

    def path(self, relative: str) -> Path:
        """Where a file that the manifest lists is."""
        return self.root / relative


def _read_manifest(path: str | os.PathLike[str]) -> tuple[Path, bytes]:
    """The bundle's folder without links, and what its manifest holds."""
    try:
        root = Path(os.path.realpath(path))
        _check_plain((root / MANIFEST).lstat(), MANIFEST)
        with (root / MANIFEST).open("rb") as file:
            return root, file.read(MAX_MANIFEST_BYTES + 1)
    except (OSError, ValueError) as error:
        raise BundleError(
            "not-a-bundle",
            f"{os.fspath(path)!r} is not a bundle: it has no {MANIFEST} that can be read",
            hint="name the folder that `ctx-export build` wrote",
        ) from error


def _check_plain(status: os.stat_result, name: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise BundleError("link", f"{name!r} is not a regular file")
    if status.st_nlink > 1:
        raise BundleError("link", f"{name!r} is a hard link: something else can change it")


def _check_listed_paths(manifest: Manifest) -> None:
    seen = {MANIFEST}
    for record in manifest.files:
        if not _PATH.fullmatch(record.path):
            raise BundleError("path-unsafe", f"{record.path!r} is not a path that a bundle may have")
        if record.path.lower() in seen:
            raise BundleError("path-unsafe", f"{record.path!r} is listed twice, or differs from another only in case")
        seen.add(record.path.lower())


def _check_tree(root: Path, manifest: Manifest) -> None:
    """Compare the folder with the list: every file, nothing else, no links, the right sizes."""
    records = {record.path: record for record in manifest.files}
    folders = {parent.as_posix() for path in records for parent in Path(path).parents}
    found: set[str] = set()
    for path, status in _walk(root, "", folders):
        _check_plain(status, path)
        if path == MANIFEST:
            continue
        if path not in records:
            raise BundleError("file-unlisted", f"{path!r} is not in the manifest")
        if status.st_size != records[path].bytes:
            raise BundleError(
                "file-size", f"{path} has {status.st_size} bytes, the manifest says {records[path].bytes}"
            )
        found.add(path)
    if missing := records.keys() - found:
        raise BundleError("file-missing", f"{min(missing)} is missing", hint="copy the whole folder")


def _walk(root: Path, folder: str, folders: set[str]) -> Iterator[tuple[str, os.stat_result]]:
    """Everything below `root / folder` that is not a folder, with its own status, never a link's."""
    with os.scandir(root / folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            path, status = folder + entry.name, (root / folder / entry.name).lstat()
            if not stat.S_ISDIR(status.st_mode):
                yield path, status
            elif path in folders:
                yield from _walk(root, f"{path}/", folders)
            else:
                raise BundleError("file-unlisted", f"the folder {path!r} holds no file of the manifest")


def _check_buckets(manifest: Manifest) -> None:
    try:
        manifest.check_buckets()
    except ValueError as error:
        raise BundleError("buckets", f"manifest.json: {error}") from error


def _check_references(manifest: Manifest) -> None:
    listed = {record.path for record in manifest.files}
    names = {bucket.name for bucket in manifest.buckets}
    for path in _referenced_files(manifest):
        if path is not None and path not in listed:
            raise BundleError("reference", f"manifest.json refers to {path!r}, which it does not list")
    for engine in manifest.engines:
        if unknown := engine.optimization_profiles.keys() - names:
            raise BundleError("reference", f"{engine.file} serves {min(unknown)!r}, which is not a bucket")


def _golden_files(manifest: Manifest) -> Iterator[tuple[str, int]]:
    """The golden vectors of buckets and of a fusion, with the tokens that a row has at least."""
    yield from ((bucket.golden, 1) for bucket in manifest.buckets if bucket.golden is not None)
    if manifest.fusion is not None and manifest.fusion.golden is not None:
        yield manifest.fusion.golden, manifest.max_length + 1


def _referenced_files(manifest: Manifest) -> Iterator[str | None]:
    for bucket in manifest.buckets:
        yield from (bucket.graph, bucket.unmasked_graph, bucket.golden)
    if (fusion := manifest.fusion) is not None:
        yield from (fusion.segment, fusion.fuse, fusion.finish, fusion.golden)
    if manifest.decoder is not None:
        yield manifest.decoder.chat_template
    yield from (engine.file for engine in manifest.engines)
    yield from (manifest.weights, manifest.tokenizer, manifest.parity_report)


def _check_hashes(root: Path, manifest: Manifest, check: Check) -> None:
    def check_file(record: FileRecord) -> None:
        recorded = check == "changed" and record.path == manifest.weights
        if not has_sha256(root / record.path, record.sha256, recorded=recorded):
            raise BundleError(
                "file-hash", f"{record.path} differs from what the build wrote", hint="copy the bundle again"
            )

    with ThreadPoolExecutor() as pool:
        list(pool.map(check_file, manifest.files))


def _check_graphs(root: Path, manifest: Manifest) -> None:
    """Scan each graph once, and hold the weight ranges of all of them against each other."""
    ranges: list[WeightRange] = []
    contracts = [_graph_contract(manifest, graph, mask) for graph, mask in sorted(_forms(manifest))]
    for graph, contract in contracts + _fusion_contracts(manifest):
        ranges += scan_graph(graph, _read_graph(root, graph), contract)
    check_ranges(ranges)


def _forms(manifest: Manifest) -> set[tuple[str, MaskUse]]:
    """Every graph, and whether it takes the mask: it must where there is a form without."""
    forms: set[tuple[str, MaskUse]] = set()
    for bucket in manifest.buckets:
        forms.add((bucket.graph, "allowed" if bucket.unmasked_graph is None else "required"))
        if bucket.unmasked_graph is not None:
            forms.add((bucket.unmasked_graph, "refused"))
    return forms


def _read_graph(root: Path, graph: str) -> bytes:
    with (root / graph).open("rb") as file:
        return file.read(MAX_GRAPH_BYTES + 1)


def _graph_contract(manifest: Manifest, graph: str, mask: MaskUse) -> tuple[str, GraphContract]:
    if (decoder := manifest.decoder) is not None:
        return graph, _contract(manifest, graph, decoder.inputs, decoder.outputs, decoder.required)
    inputs = [spec for spec in manifest.inputs if not (mask == "refused" and spec.role == "mask")]
    required = [manifest.mask.name] if manifest.mask is not None and mask == "required" else []
    return graph, _contract(manifest, graph, inputs, manifest.outputs, required)


def _fusion_contracts(manifest: Manifest) -> list[tuple[str, GraphContract]]:
    """The graphs of the fusion, if the bundle has one: segment, fuse and, where an output has a length, finish."""
    if (fusion := manifest.fusion) is None:
        return []
    rows = [spec for spec in manifest.inputs if spec.role != "mask"]
    by_row = [spec for spec in manifest.outputs if spec.length_axis is None]
    by_token = [spec for spec in manifest.outputs if spec.length_axis is not None]
    segment, fuse = [fusion.state("summary")], [fusion.state("contexts"), *by_row]
    if fusion.finish is None:
        fuse = [*by_row]
    else:
        segment.append(fusion.state("hidden"))
    interfaces: list[tuple[str | None, Sequence[TensorSpec], Sequence[TensorSpec]]] = [
        (fusion.segment, rows, segment),
        (fusion.fuse, [fusion.state("summaries")], fuse),
        (fusion.finish, [fusion.state("hidden"), fusion.state("context")], by_token),
    ]
    return [
        (graph, _contract(manifest, graph, inputs, outputs))
        for graph, inputs, outputs in interfaces
        if graph is not None
    ]


def _contract(
    manifest: Manifest,
    graph: str,
    inputs: Sequence[GraphTensor],
    outputs: Sequence[GraphTensor],
    required: Sequence[str] = (),
) -> GraphContract:
    """What the manifest says of a graph; only the weight file beside it is in reach of its external data."""
    weights = Path(manifest.weights) if manifest.weights else None
    beside = weights is not None and weights.parent == Path(graph).parent
    sizes = {record.path: record.bytes for record in manifest.files}
    return GraphContract(
        inputs=inputs,
        required=frozenset(required),
        outputs=outputs,
        weights=weights.name if weights and beside else None,
        weights_bytes=sizes[manifest.weights] if manifest.weights and beside else 0,
    )
