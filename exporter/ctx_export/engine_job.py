"""Adds engines to a bundle that stands: `ctx-export engines`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast, get_args

from ctx_export.bundle_writer import BundleWriter
from ctx_export.cache import BuildCache, default_cache_dir
from ctx_export.engines import BuiltEngine, Layout
from ctx_export.engines.inspecting import inspect_engines
from ctx_export.engines.job import build_engines
from ctx_export.engines.targets import check_targets
from ctx_export.reports import Progress
from ctx_runtime.bundle import Bundle
from ctx_runtime.errors import EngineError
from ctx_runtime.resource_profile import parse_bytes


def add_engines(
    path: str | Path,
    targets: Sequence[str],
    *,
    layout: str = "auto",
    strip: bool = False,
    memory_limit: int | str | None = None,
    cache_dir: Path | None = None,
    on_progress: Progress | None = None,
) -> list[BuiltEngine]:
    """Build engines for the bundle at `path` and publish it with them; those of the same targets are replaced.

    A build that fails or is cancelled leaves the bundle as it was.

    Args:
        path: the bundle's folder.
        targets: `rtx:sm86,sm89`, `trt:current`, …: each makes engines of its own.
        layout: `auto`, `shared` or `per-bucket`.
        strip: leave the weights out, on the device that will run the engine; see `build_engines`.
        memory_limit: resident memory that a build may take, in bytes or as `4 GiB`; Linux only.
        cache_dir: where finished engines are kept; by default the user's cache folder.
        on_progress: told `("engines", done, total)`, in optimization profiles.

    Raises:
        BundleError: the bundle is not sound.
        EngineError: TensorRT refuses a target, a precision or a graph, or a build died.
        MissingExtraError: the library of a target is not installed.
    """
    chosen, limit_bytes = _layout(layout), _memory_limit(memory_limit)
    bundle = Bundle.open(path, check="full")  # it is listed again: damage would get a hash of its own
    check_targets(targets, {bucket.precision for bucket in bundle.manifest.buckets})
    cache = BuildCache(cache_dir or default_cache_dir())
    with BundleWriter(Path(path), copy_from=bundle) as writer:
        built = build_engines(
            bundle,
            targets=targets,
            layout=chosen,
            strip=strip,
            out_dir=writer.root,
            cache=cache,
            memory_limit_bytes=limit_bytes,
            on_progress=on_progress,
        )
        replaced = {Path(engine.record.file).parent for engine in built}
        kept = [record for record in bundle.manifest.engines if Path(record.file).parent not in replaced]
        records = [*kept, *(engine.record for engine in built)]
        _remove_stale(writer.root, built)
        writer.write_manifest(bundle.manifest.model_copy(update={"engines": tuple(records)}))
        writer.publish()
    return built


def list_engines(path: str | Path) -> list[BuiltEngine]:
    """The engines that the bundle at `path` has.

    Raises:
        BundleError: the bundle is not sound.
        EngineError: an engine is not what its header says.
    """
    return inspect_engines(Bundle.open(path))


def _layout(text: str) -> Layout:
    for layout in get_args(Layout):
        if text == layout:
            return cast(Layout, layout)
    raise EngineError(f"{text!r} is not a layout", hint=f"give one of {', '.join(get_args(Layout))}")


def _memory_limit(value: int | str | None) -> int | None:
    if value is None:
        return None
    try:
        return int(str(parse_bytes(value)))
    except ValueError as error:
        raise EngineError(f"memory limit: {error}") from error


def _remove_stale(root: Path, built: Sequence[BuiltEngine]) -> None:
    """Remove what an earlier build, perhaps in another layout, left in the folders of the new engines."""
    new = {(root / engine.record.file).with_suffix("") for engine in built}
    for folder in {path.parent for path in new}:
        for file in folder.iterdir():
            if file.with_suffix("") not in new:
                file.unlink()
