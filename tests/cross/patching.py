"""Changes that conformance cases make to a bundle, `tiny` unless they name another one beside it.

They are made to its manifest (JSON Patch, RFC 6902) and to its files.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.fixtures.bundles import rehash

TINY = Path(__file__).parent / "tiny"


def make_bundle(root: Path, case: Mapping) -> Path:
    """A copy of the case's `bundle` at `root` with its changes: `files`, `relist`, `manifest`, `text`."""
    shutil.copytree(TINY.with_name(case.get("bundle", "tiny")), root)
    for change in case.get("files", ()):
        _change_file(root, change)
    if case.get("relist"):
        rehash(root)
    if "text" in case:
        (root / "manifest.json").write_bytes(case["text"].encode())
    elif "manifest" in case:
        (root / "manifest.json").write_text(json.dumps(patched_manifest(case["manifest"], root)))
    return root


def patched_manifest(patch: Iterable[Mapping], root: Path = TINY) -> dict:
    manifest = json.loads((root / "manifest.json").read_text())
    apply_patch(manifest, patch)
    return manifest


def apply_patch(document: object, patch: Iterable[Mapping]) -> None:
    """The operations add, replace and remove, in place."""
    for operation in patch:
        *keys, last = operation["path"].split("/")[1:]
        parent = document
        for key in keys:
            parent = parent[int(key)] if isinstance(parent, list) else parent[key]
        value = copy.deepcopy(operation.get("value"))
        if isinstance(parent, list):
            place = len(parent) if last == "-" else int(last)
            parent[place : place + (operation["op"] != "add")] = [] if operation["op"] == "remove" else [value]
        elif operation["op"] == "remove":
            del parent[last]
        else:
            parent[last] = value


def _change_file(root: Path, change: Mapping) -> None:
    path = root / change["path"]
    if "delete" in change or "link" in change:
        path.unlink(missing_ok=True)
    if "link" in change:
        path.symlink_to(change["link"])
    if "hard_link" in change:
        path.hardlink_to(root / change["hard_link"])
    if "folder" in change:
        path.mkdir()
    if "text" in change:
        path.write_text(change["text"])
    if "truncate" in change:
        os.truncate(path, change["truncate"])
    if "append" in change:
        path.write_bytes(path.read_bytes() + bytes.fromhex(change["append"]))
    for key, count in (("replace", 1), ("replace_all", -1)):
        if key in change:
            old, new = (bytes.fromhex(part) for part in change[key])
            data = path.read_bytes()
            assert old in data, f"{change['path']} does not hold {old!r}"
            path.write_bytes(data.replace(old, new, count))
