"""The engines of a bundle: which to build for the targets, and from the cache where they were built before."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ctx_export.cache import BuildCache, code_digest, digest
from ctx_export.engines import (
    BuildOutcome,
    BuiltEngine,
    EngineRequest,
    EngineTarget,
    Layout,
    builder,
    classic,
    network,
    optimization_profiles,
    rtx,
)
from ctx_export.engines.inspecting import EngineReport, read_header, report_path
from ctx_export.engines.targets import check_precision, parse_target
from ctx_export.engines.worker import build_in_child
from ctx_runtime.backends.cuda import compute_capability
from ctx_runtime.backends.tensorrt_library import load_library
from ctx_runtime.bundle import Bundle
from ctx_runtime.decoder import DecoderRecord
from ctx_runtime.errors import BackendError, EngineError, MissingExtraError
from ctx_runtime.manifest import BucketRecord, EngineRecord, Manifest

_ENGINE = "all.engine"


@dataclass(frozen=True)
class _Plan:
    """An engine to build, and its file in the bundle."""

    request: EngineRequest
    file: str


def build_engines(
    bundle: Bundle,
    *,
    targets: Sequence[str],
    layout: Layout = "auto",
    strip: bool = False,
    out_dir: Path,
    cache: BuildCache,
    memory_limit_bytes: int | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> list[BuiltEngine]:
    """Build the engines of `bundle` for every target, each from the very graph that ONNX Runtime runs.

    Args:
        bundle: an opened bundle; it stays as it is.
        targets: `rtx:sm86,sm89`, `trt:current`, …: each makes engines of its own.
        layout: `auto` is `shared`: one engine a network, one optimization profile a bucket.
        strip: leave the weights out; the runtime puts them in from `weights.bin`. Needs a CUDA driver here. The
            library takes exactly these weights for granted (kREFIT_IDENTICAL): with others the answers are undefined.
        out_dir: the engines and their reports go to `engines/…` in this folder.
        cache: where finished engines are kept.
        memory_limit_bytes: resident memory that a build may take; Linux only.
        on_progress: told `("engines", done, total)`, in optimization profiles.

    Raises:
        EngineError: a target that is none, or can't hold a precision; TensorRT refuses a graph; a build died.
        MissingExtraError: the library of a target is not installed.
    """
    if strip:
        _require_driver()
    plans = [plan for text in targets for plan in _plan(bundle, parse_target(text), layout, strip)]
    total, done, built = sum(len(plan.request.profiles) for plan in plans), 0, []
    for plan in plans:

        def on_profile(finished: int, before: int = done) -> None:
            if on_progress is not None:
                on_progress("engines", before + finished, total)

        on_profile(0)
        built.append(_build(bundle, plan, out_dir, cache, memory_limit_bytes, on_profile))
        done += len(plan.request.profiles)
        on_profile(len(plan.request.profiles))
    return built


def _require_driver() -> None:
    try:
        compute_capability()
    except (BackendError, MissingExtraError) as error:
        raise EngineError(
            f"a weight-stripped engine can't be built here: TensorRT needs a CUDA driver for it ({error})",
            hint="build it on the device, or leave out --strip",
        ) from error


def _plan(bundle: Bundle, target: EngineTarget, layout: Layout, strip: bool) -> Iterator[_Plan]:
    """The engines of one target, checked as far as it goes without the library."""
    manifest = bundle.manifest
    if manifest.decoder is not None:
        yield from _plan_decoder(bundle, manifest.decoder, target, strip)
        return
    groups = _groups(manifest.buckets, layout)
    for group in groups:
        largest = group[-1]
        check_precision(target, largest.precision)
        name = largest.name if layout == "per-bucket" else "all" if len(groups) == 1 else largest.network
        profiles = optimization_profiles.profiles_of(group, manifest.inputs)
        optimization_profiles.check_profiles(profiles)
        request = EngineRequest(
            target=target,
            network=largest.network,
            precision=largest.precision,
            graph=bundle.path(largest.graph).absolute(),
            inputs={spec.name: spec.dtype for spec in manifest.inputs},
            profiles=profiles,
            stripped=strip,
        )
        yield _Plan(request, f"engines/{target.folder}/{name}.engine")


def _plan_decoder(bundle: Bundle, decoder: DecoderRecord, target: EngineTarget, strip: bool) -> Iterator[_Plan]:
    """One engine for each capacity: TensorRT takes a cache of static length."""
    if decoder.form != "attention":
        raise EngineError(
            f"the graphs of {bundle.manifest.name} are in the form that only ONNX Runtime's CPU runs",
            hint="build the bundle with a profile that lists a TensorRT backend",
        )
    for bucket in bundle.manifest.buckets:
        check_precision(target, bucket.precision)
        profile, inputs = optimization_profiles.decoder_profile(
            bucket, decoder, network.input_names(bundle.path(bucket.graph))
        )
        request = EngineRequest(
            target=target,
            network=bucket.network,
            precision=bucket.precision,
            graph=bundle.path(bucket.graph).absolute(),
            inputs=inputs,
            profiles=(profile,),
            stripped=strip,
            capacity=bucket.max_length,
        )
        yield _Plan(request, f"engines/{target.folder}/{bucket.name}.engine")


def _groups(buckets: Sequence[BucketRecord], layout: Layout) -> list[list[BucketRecord]]:
    """The buckets of each engine; another network or precision can't share one."""
    groups: dict[str, list[BucketRecord]] = {}
    for bucket in buckets:
        groups.setdefault(bucket.name if layout == "per-bucket" else bucket.network, []).append(bucket)
    return list(groups.values())


def _build(
    bundle: Bundle,
    plan: _Plan,
    out_dir: Path,
    cache: BuildCache,
    memory_limit_bytes: int | None,
    on_profile: Callable[[int], None],
) -> BuiltEngine:
    request = plan.request

    def make(folder: Path) -> None:
        outcome = build_in_child(
            request, folder / _ENGINE, memory_limit_bytes=memory_limit_bytes, on_profile=on_profile
        )
        _check_outcome(request, outcome, folder / _ENGINE)
        report = EngineReport(**outcome.model_dump(), profiles=request.profiles)
        report_path(folder / _ENGINE).write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")

    entry, cached = cache.fetch("engine", _key(bundle.manifest, request), make)
    report = EngineReport.model_validate_json(report_path(entry / _ENGINE).read_text(encoding="utf-8"))
    engine = out_dir / plan.file
    engine.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(entry / _ENGINE, engine)
    shutil.copyfile(report_path(entry / _ENGINE), report_path(engine))
    record = EngineRecord(
        backend=request.target.backend,
        targets=report.targets,
        file=plan.file,
        library_version=report.library_version,
        network=request.network,
        optimization_profiles={profile.bucket: profile.index for profile in request.profiles},
        stripped=request.stripped,
    )
    return BuiltEngine(record, request.profiles, BuildOutcome(**report.model_dump(exclude={"profiles"})), cached)


def _check_outcome(request: EngineRequest, outcome: BuildOutcome, engine: Path) -> None:
    """Hold an engine for other devices to what was asked, by its own header."""
    if request.target.backend == "tensorrt-rtx":
        header = read_header(engine)
        if header.library_version != outcome.library_version:
            raise EngineError(f"{request.subject}: the engine names version {header.library_version}")
        if request.target.names not in (("current",), header.targets):
            raise EngineError(f"{request.subject}: the engine runs on {'+'.join(header.targets)} instead")


def _key(manifest: Manifest, request: EngineRequest) -> str:
    """What an engine depends on: graph, weights, options, library and target, and the device if it is for that one."""
    hashes = {record.path: record.sha256 for record in manifest.files}
    graph = next(bucket.graph for bucket in manifest.buckets if bucket.name == request.profiles[-1].bucket)
    return digest(
        hashes[graph],
        hashes[manifest.weights] if manifest.weights else None,
        request.model_dump(mode="json", exclude={"graph"}),
        load_library(request.target.backend).__version__,
        None if request.target.names[0].startswith("sm") else compute_capability(),
        code_digest(builder, network, optimization_profiles, rtx, classic),
    )
