"""Weights in the layout that ONNX Runtime computes with, kept in a file and mapped instead of copied.

ONNX Runtime repacks weights into private memory each time a session opens. Here it does so once on each device: the
repacked graph is saved in the user's cache folder and opened from there, its weights mapped, so that sessions and
processes share them. Graphs of one network have the same repacked weights and share one file.

The cache is of one ONNX Runtime version and one processor, and never part of a bundle. It lies in the user's own cache
folder, not beside the bundle, so that an archive can't bring one along.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import tempfile
from pathlib import Path

import onnxruntime as ort

from ctx_runtime.backends.onnxruntime import PROVIDERS, session_options
from ctx_runtime.bundle import Bundle, Check
from ctx_runtime.cache_folder import cache_root
from ctx_runtime.errors import BackendError
from ctx_runtime.hash_records import has_sha256, sha256_file

_GRAPH, _WEIGHTS, _HASHES = "graph.onnx", "weights.bin", "sha256.json"
_MIN_EXTERNAL_BYTES = 1024


def prepacked_graph(bundle: Bundle, graph: str) -> Path:
    """The repacked form of a graph of `bundle`, made on the first call on this device.

    Its hashes are checked on every call, that of the weights by its record if the bundle's was; an entry that does not
    keep them is made again.

    Raises:
        BackendError: the cache can't be written; the graph itself can still be opened.
    """
    key = _digest(bundle.manifest_sha256, ort.__version__, _processor())
    folder = cache_root() / key / Path(graph).name
    try:
        if not _is_sound(folder, bundle.check):
            _make(bundle.path(graph), folder, bundle.check)
    except Exception as error:  # ONNX Runtime's errors have no common class of their own
        reason = " ".join(str(error).split())[:300]
        raise BackendError(f"the cache of prepacked weights at {cache_root()} can't be written: {reason}") from error
    return folder / _GRAPH


def _make(graph: Path, folder: Path, check: Check) -> None:
    """Fill `folder` with the repacked graph, its weights linked to those of a graph that has the same."""
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
    try:
        _repack(graph, partial / _GRAPH)
        hashes = {file.name: sha256_file(file) for file in partial.iterdir()}
        if _WEIGHTS in hashes:
            _link_equal(partial / _WEIGHTS, folder.parent / f"{hashes[_WEIGHTS]}.bin")
        (partial / _HASHES).write_text(json.dumps(hashes))
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    except OSError:
        if not _is_sound(folder, check):  # else another process was faster
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _link_equal(weights: Path, shared: Path) -> None:
    """Let `weights` be a link to `shared`, a file with the same bytes, which is made where it is missing or damaged."""
    if not shared.exists() or sha256_file(shared) != shared.stem:
        weights.replace(shared)
    weights.unlink(missing_ok=True)
    weights.hardlink_to(shared)


def _repack(graph: Path, target: Path) -> None:
    options = session_options(1)
    options.optimized_model_filepath = str(target)
    prefix = "session.optimized_model_external_initializers_"
    options.add_session_config_entry(f"{prefix}file_name", _WEIGHTS)
    options.add_session_config_entry(f"{prefix}min_size_in_bytes", str(_MIN_EXTERNAL_BYTES))
    options.add_session_config_entry("session.save_external_prepacked_constant_initializers", "1")
    ort.InferenceSession(str(graph), options, providers=[PROVIDERS["onnxruntime-cpu"]])


def _is_sound(folder: Path, check: Check) -> bool:
    """Whether `folder` holds all that `_make` wrote, unchanged."""
    try:
        hashes = json.loads((folder / _HASHES).read_text())
        return _GRAPH in hashes and all(
            has_sha256(folder / name, sha256, recorded=check != "full" and name == _WEIGHTS)
            for name, sha256 in hashes.items()
        )
    except (OSError, ValueError):
        return False


def _processor() -> str:
    """What the repacked layout depends on: the instruction set's features, where Linux tells them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return _digest(
        *sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
    )


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
