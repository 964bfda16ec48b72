"""Weights in the layout that ONNX Runtime computes with, kept in a file and mapped instead of copied.

ONNX Runtime repacks weights into private memory each time a session opens. Here it does so once on each device: the
repacked graph is saved in the user's cache folder and opened from there, its weights mapped, so that sessions and
processes share them. Graphs of one network have the same repacked weights and share one file.

The cache is of one ONNX Runtime version and one processor, and never part of a bundle. It lies in the user's own cache
folder, not beside the bundle, so that an archive can't bring one along.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import tempfile
from pathlib import Path

import onnxruntime as ort

from ctx_runtime.backends.cache_folder import cache_root
from ctx_runtime.backends.onnxruntime import PROVIDERS, session_options
from ctx_runtime.bundle import Bundle, sha256_file
from ctx_runtime.errors import BackendError

_WEIGHTS = "weights.bin"
_MIN_EXTERNAL_BYTES = 1024


def prepacked_graph(bundle: Bundle, graph: str) -> Path:
    """The repacked form of a graph of `bundle`, made on the first call on this device.

    Raises:
        BackendError: the cache can't be written; the graph itself can still be opened.
    """
    key = _digest(bundle.manifest_sha256, ort.__version__, _processor())
    folder = cache_root() / key / Path(graph).name
    try:
        if not _is_whole(folder):
            _make(bundle.path(graph), folder)
    except OSError as error:
        raise BackendError(f"the cache of prepacked weights at {cache_root()} can't be written: {error}") from error
    return folder / "graph.onnx"


def _make(graph: Path, folder: Path) -> None:
    """Fill `folder` with the repacked graph, its weights linked to those of a graph that has the same."""
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
    try:
        _repack(graph, partial / "graph.onnx")
        weights = partial / _WEIGHTS
        if weights.exists():
            shared = folder.parent / f"{sha256_file(weights)}.bin"
            if not shared.exists() or shared.stat().st_size != weights.stat().st_size:
                weights.replace(shared)
            weights.unlink(missing_ok=True)
            os.link(shared, weights)
            (partial / "bytes").write_text(str(weights.stat().st_size))
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    except OSError:
        if not _is_whole(folder):
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _repack(graph: Path, target: Path) -> None:
    options = session_options(1)
    options.optimized_model_filepath = str(target)
    prefix = "session.optimized_model_external_initializers_"
    options.add_session_config_entry(f"{prefix}file_name", _WEIGHTS)
    options.add_session_config_entry(f"{prefix}min_size_in_bytes", str(_MIN_EXTERNAL_BYTES))
    options.add_session_config_entry("session.save_external_prepacked_constant_initializers", "1")
    ort.InferenceSession(str(graph), options, providers=[PROVIDERS["onnxruntime-cpu"]])


def _is_whole(folder: Path) -> bool:
    """Whether `folder` holds all that `_make` wrote: it is renamed into place, so a wrong size is later damage."""
    size = folder / "bytes"
    if not (folder / "graph.onnx").is_file():
        return False
    return not size.exists() or (folder / _WEIGHTS).stat().st_size == int(size.read_text())


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
