"""Adds engines to a bundle that stands: `ctx-export engines`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ctx_export.bundle_writer import BundleWriter
from ctx_export.cache import BuildCache, default_cache_dir
from ctx_export.engines import BuiltEngine, Layout
from ctx_export.engines.job import build_engines
from ctx_export.reports import Progress
from ctx_runtime.bundle import Bundle


def add_engines(
    path: str | Path,
    targets: Sequence[str],
    *,
    layout: Layout = "auto",
    memory_limit_bytes: int | None = None,
    cache_dir: Path | None = None,
    on_progress: Progress | None = None,
) -> list[BuiltEngine]:
    """Build engines for the bundle at `path` and publish it with them; those of the same targets are replaced.

    A build that fails or is cancelled leaves the bundle as it was. See `build_engines` for the arguments.

    Raises:
        BundleError: the bundle is not sound.
        EngineError: TensorRT refuses a target, a precision or a graph, or a build died.
        MissingExtraError: the library of a target is not installed.
    """
    bundle = Bundle.open(path)
    cache = BuildCache(cache_dir or default_cache_dir())
    with BundleWriter(Path(path), copy_from=bundle) as writer:
        built = build_engines(
            bundle,
            targets=targets,
            layout=layout,
            out_dir=writer.root,
            cache=cache,
            memory_limit_bytes=memory_limit_bytes,
            on_progress=on_progress,
        )
        replaced = {Path(engine.record.file).parent for engine in built}
        kept = [record for record in bundle.manifest.engines if Path(record.file).parent not in replaced]
        records = [*kept, *(engine.record for engine in built)]
        _remove_stale(writer.root, built)
        writer.write_manifest(bundle.manifest.model_copy(update={"engines": tuple(records)}))
        writer.publish()
    return built


def _remove_stale(root: Path, built: Sequence[BuiltEngine]) -> None:
    """Remove what an earlier build, perhaps in another layout, left in the folders of the new engines."""
    new = {(root / engine.record.file).with_suffix("") for engine in built}
    for folder in {path.parent for path in new}:
        for file in folder.iterdir():
            if file.with_suffix("") not in new:
                file.unlink()
