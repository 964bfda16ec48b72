"""The whole job, from a PyTorch model to a published bundle: `build()` reads as its table of contents."""

from __future__ import annotations

import contextlib
import functools
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch

from ctx_export import activation, constants, graphs, intervals, lowering, parity, precision, specialising
from ctx_export.bundle_writer import BundleWriter
from ctx_export.cache import BuildCache, code_digest, default_cache_dir, digest
from ctx_export.engines.job import build_engines
from ctx_export.engines.targets import check_targets
from ctx_export.parity import GOLDEN, BucketProof, merge
from ctx_export.precision import TOLERANCES
from ctx_export.profiles import load_profile
from ctx_export.reports import BuildReport, Progress, Stages, write_report
from ctx_export.sources import Source, huggingface, load_source, modules, pooling
from ctx_export.sources import source as source_module
from ctx_export.weights import WeightStore
from ctx_runtime import __version__
from ctx_runtime.backends.onnxruntime import OrtSession
from ctx_runtime.bundle import Bundle
from ctx_runtime.errors import BackendError, BuildError, ParityError, SourceError
from ctx_runtime.manifest import FORMAT, BucketRecord, Manifest
from ctx_runtime.parity import Form, ParityReport
from ctx_runtime.resource_profile import BucketPlan, ResourceProfile

WEIGHTS = "weights.bin"
PADDING_TOLERANCE = 1e-3
"""A model whose answers padding moves by more than this (max abs) is not padding-invariant."""
_PACKAGES = ("torch", "transformers", "onnx", "onnx-ir", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class Workshop:
    """What every stage of one build works with."""

    source: Source
    profile: ResourceProfile
    plans: tuple[BucketPlan, ...]
    cache: BuildCache
    stages: Stages
    writer: BundleWriter


def build(
    model: str | Path | torch.nn.Module,
    profile: str | Path | ResourceProfile,
    output: str | Path,
    *,
    task: str | None = None,
    name: str | None = None,
    factory: str | None = None,
    example_inputs: Mapping[str, torch.Tensor] | None = None,
    allow_pickle: bool = False,
    targets: Sequence[str] = (),
    cache_dir: Path | None = None,
    on_progress: Progress | None = None,
) -> BuildReport:
    """Export `model` once, specialise it for every bucket of `profile`, prove it and publish the bundle at `output`.

    Args:
        model: a Hugging Face folder or cached id, a `.safetensors` checkpoint (with `factory`), or a module (with
            `example_inputs`).
        profile: a resource profile, its file, or the name of a shipped one.
        output: the bundle's folder; an older bundle there is replaced when the new one is finished.
        task: what a Hugging Face model does; by default what its configuration says.
        name: the bundle's name; by default the model's.
        factory: `module:function` that makes the module of a checkpoint.
        example_inputs: one tensor `(batch, length, …)` an input, of a plain module.
        allow_pickle: load weights from pickles, which can run code.
        targets: what to build TensorRT engines for, such as `rtx:sm86,sm89`; none by default.
        cache_dir: where finished stages are kept; by default the user's cache folder.
        on_progress: told `(stage, done, total)`.

    Raises:
        BuildError: the model can't be loaded or exported, `output` is not ours to replace, or TensorRT refuses it.
        ParityError: a bucket's answers differ from PyTorch's by more than its tolerance; nothing is published.
    """
    stages = Stages(on_progress)
    with stages.stage("total"), BundleWriter(Path(output)) as writer:
        profile = profile if isinstance(profile, ResourceProfile) else load_profile(profile)
        check_targets(targets, {plan.precision for plan in profile.resolve()})
        source = load_source(
            model, task=task, name=name, factory=factory, example_inputs=example_inputs, allow_pickle=allow_pickle
        )
        cache = BuildCache(cache_dir or default_cache_dir())
        shop = Workshop(source, profile, _plan(source, profile), cache, stages, writer)
        canonical = export(shop)
        records = specialise(shop, canonical)
        report = prove(shop, records)
        _write_manifest(shop, records, report)
        if targets:
            add_engines(shop, targets)
        bundle = writer.publish()
    return BuildReport(bundle=bundle, parity=report, seconds=stages.seconds, cached=tuple(stages.cached))


def export(shop: Workshop) -> ir.Model:
    """The one ONNX graph of the whole length range; its weights stay on disk until they are read."""
    longest = shop.source.max_length or shop.plans[-1].max_length

    def make(folder: Path) -> None:
        ir.save(graphs.export_graph(shop.source, max_length=longest), folder / "model.onnx", external_data="model.data")

    with shop.stages.stage("export"):
        shop.stages.tell("export", 0, 1)
        entry, cached = shop.cache.fetch("export", _export_key(shop.source, longest), make)
        shop.stages.tell("export", 1, 1)
    if cached:
        shop.stages.cached.append("export")
    return ir.load(entry / "model.onnx")


def specialise(shop: Workshop, canonical: ir.Model) -> tuple[BucketRecord, ...]:
    """Write the graphs of every bucket over one weight store, the largest first: its tables hold the smaller ones'."""
    folder = shop.writer.root / "graphs"
    folder.mkdir()
    networks: dict[str, ir.Model] = {}
    records: list[BucketRecord] = []
    with shop.stages.stage("specialise"), WeightStore(folder / WEIGHTS) as store:
        for done, plan in enumerate(reversed(shop.plans)):
            shop.stages.tell("specialise", done, len(shop.plans))
            if plan.network not in networks:
                networks[plan.network] = precision.convert(canonical, plan.precision)
            forms = _specialise_bucket(networks[plan.network], plan, shop.source)
            for form, graph in forms.items():
                store.save_graph(graph, folder / _file_name(plan, form))
            records.append(_record(plan, forms))
        shop.stages.tell("specialise", len(shop.plans), len(shop.plans))
    if not (folder / WEIGHTS).stat().st_size:
        (folder / WEIGHTS).unlink()
    return tuple(reversed(records))


def _specialise_bucket(network: ir.Model, plan: BucketPlan, source: Source) -> dict[Form, ir.Model]:
    """The forms of a bucket's graph. All start at length 1: shorter buckets are served from the longest one's graph."""
    lengths = intervals.Interval(1, plan.max_length)
    mask = next((spec.name for spec in source.inputs if spec.role == "mask"), None)
    ones: dict[Form, str | None] = {"masked": None} if mask is None else {"masked": None, "unmasked": mask}
    return {
        form: lowering.lower_for_onnxruntime(specialising.specialise(network, length=lengths, all_ones=all_ones))
        for form, all_ones in ones.items()
    }


def _file_name(plan: BucketPlan, form: Form) -> str:
    return f"{plan.name}.onnx" if form == "masked" else f"{plan.name}.{form}.onnx"


def prove(shop: Workshop, records: Sequence[BucketRecord]) -> ParityReport:
    """Prove every bucket against PyTorch, write golden vectors and the report.

    Raises:
        ParityError: a case is out of tolerance.
    """
    unverified: dict[str, str] = {}
    proofs: list[BucketProof] = []
    (shop.writer.root / "parity").mkdir()
    with shop.stages.stage("parity"):
        for done, record in enumerate(records):
            shop.stages.tell("parity", done, len(records))
            try:
                proofs.append(_prove_bucket(shop, record))
            except BackendError as error:
                unverified[record.name] = str(error)
        shop.stages.tell("parity", len(records), len(records))
    report = merge(proofs, unverified)
    _refuse_failures(report)
    write_report(report, shop.writer.root / "parity" / "report.json")
    return report


def add_engines(shop: Workshop, targets: Sequence[str]) -> None:
    """Build TensorRT engines from the graphs of the finished folder, and list them in its manifest."""
    root = shop.writer.root
    with shop.stages.stage("engines"):
        bundle = Bundle.open(root, verify="sizes")
        built = build_engines(bundle, targets=targets, out_dir=root, cache=shop.cache, on_progress=shop.stages.tell)
        records = tuple(engine.record for engine in built)
        shop.writer.write_manifest(bundle.manifest.model_copy(update={"engines": records}))
    shop.stages.cached += [f"engine:{engine.record.file}" for engine in built if engine.cached]


def verify(
    path: str | Path,
    against: str | Path | torch.nn.Module,
    *,
    task: str | None = None,
    factory: str | None = None,
    example_inputs: Mapping[str, torch.Tensor] | None = None,
    allow_pickle: bool = False,
    on_progress: Progress | None = None,
) -> ParityReport:
    """Run every bucket of a bundle against the PyTorch model that it was made from; see `build` for the arguments.

    Raises:
        BundleError: the bundle is not sound.
        SourceError: the model is not the one that the bundle was made from.
    """
    bundle = Bundle.open(path)
    manifest = bundle.manifest
    source = load_source(
        against, task=task or manifest.task, factory=factory, example_inputs=example_inputs, allow_pickle=allow_pickle
    )
    if (source.inputs, source.outputs) != (manifest.inputs, manifest.outputs):
        raise SourceError(
            f"{source.name} has other inputs or outputs than the bundle {manifest.name}",
            hint="give the model and the task that the bundle was built from",
        )
    stages, proofs, unverified = Stages(on_progress), [], {}
    for done, record in enumerate(manifest.buckets):
        stages.tell("parity", done, len(manifest.buckets))
        try:
            proofs.append(_run_proof(source, record, bundle.root))
        except BackendError as error:
            unverified[record.name] = str(error)
    return merge(proofs, unverified)


def _plan(source: Source, profile: ResourceProfile) -> tuple[BucketPlan, ...]:
    """The buckets of `profile`, once it is clear that the model can serve them."""
    plans = profile.resolve()
    for plan in plans:
        if source.max_length is not None and plan.max_length > source.max_length:
            raise BuildError(
                f"bucket {plan.name} of profile {profile.name} is longer than the {source.max_length} positions "
                f"of {source.name}",
                hint="take a profile with shorter buckets: longer inputs run in segments",
            )
        if plan.subnetwork is not None:
            raise BuildError(
                f"bucket {plan.name} asks for a sub-network, which {source.name} does not have",
                hint="remove `subnetwork` from the profile",
            )
    framing = len(source.special_tokens.prefix) + len(source.special_tokens.suffix)
    overlap, longest = profile.overflow.overlap, plans[-1].max_length
    if profile.overflow.policy == "segment" and overlap + framing >= longest:
        raise BuildError(
            f"segments of {longest} tokens leave no room beside {framing} special tokens and an overlap of {overlap}",
            hint="lower overflow.overlap, or set overflow.policy to truncate or error",
        )
    return plans


def _record(plan: BucketPlan, forms: Mapping[Form, ir.Model]) -> BucketRecord:
    needs = {form: activation.estimate_activation(graph, max_length=plan.max_length) for form, graph in forms.items()}
    return BucketRecord(
        **plan.model_dump(),
        graph=f"graphs/{_file_name(plan, 'masked')}",
        unmasked_graph=f"graphs/{_file_name(plan, 'unmasked')}" if "unmasked" in forms else None,
        tolerance=TOLERANCES[plan.precision],
        golden=f"parity/{plan.name}.npz",
        activation=needs.get("unmasked", needs["masked"]),
        masked_activation=needs["masked"],
    )


def _export_key(source: Source, longest: int) -> str:
    specs = [spec.model_dump() for spec in (*source.inputs, *source.outputs)]
    code = code_digest(graphs, constants, source_module, huggingface, modules, pooling)
    return digest(source.record.sha256, source.task, specs, longest, _toolchain(), code)


def _prove_bucket(shop: Workshop, record: BucketRecord) -> BucketProof:
    """The proof of one bucket, from the cache where nothing that it depends on has changed."""
    longest = shop.source.max_length or shop.plans[-1].max_length
    code = code_digest(specialising, intervals, lowering, precision, parity)
    key = digest(_export_key(shop.source, longest), record.model_dump(), code, platform.processor())

    def make(folder: Path) -> None:
        _run_proof(shop.source, record, shop.writer.root).save(folder)

    entry, cached = shop.cache.fetch("parity", key, make)
    if cached:
        shop.stages.cached.append(f"parity:{record.name}")
    shutil.copyfile(entry / GOLDEN, shop.writer.root / f"parity/{record.name}.npz")
    return BucketProof.load(entry)


def _run_proof(source: Source, record: BucketRecord, root: Path) -> BucketProof:
    """Run the graphs of one bucket, as they stand in the bundle at `root`, against PyTorch."""
    paths: dict[Form, str | None] = {"masked": record.graph, "unmasked": record.unmasked_graph}
    with contextlib.ExitStack() as stack:
        runs: dict[Form, parity.Run] = {}
        for form, path in paths.items():
            if path is not None:
                session = stack.enter_context(contextlib.closing(OrtSession(root / path, threads=record.threads)))
                runs[form] = functools.partial(_run, session, record.name)
        return parity.prove_bucket(
            record,
            inputs=source.inputs,
            outputs=source.outputs,
            tolerance=record.tolerance,
            example=lambda lengths: source.example(len(lengths), lengths),
            reference=source.run,
            runs=runs,
        )


def _run(session: OrtSession, bucket: str, arrays: parity.Arrays) -> dict[str, np.ndarray]:
    return session.run({name: arrays[name] for name in session.inputs}, bucket=bucket)


def _refuse_failures(report: ParityReport) -> None:
    failures = [case for case in report.cases if not case.passed]
    if failures:
        worst = max(failures, key=lambda case: case.max_abs)
        raise ParityError(
            f"{len(failures)} of {len(report.cases)} parity cases are out of tolerance; worst: {worst.bucket} "
            f"{worst.form}, lengths {list(worst.lengths)}: max abs {worst.max_abs:.3g} (allowed "
            f"{worst.tolerance.max_abs:.3g}), cosine {worst.cosine:.6f} (at least {worst.tolerance.min_cosine})",
            hint="nothing was published; try a higher precision for this bucket",
        )


def _write_manifest(shop: Workshop, records: Sequence[BucketRecord], report: ParityReport) -> None:
    """Copy the tokenizer and write the manifest over all files."""
    root, source, profile = shop.writer.root, shop.source, shop.profile
    if source.tokenizer is not None:
        (root / "tokenizer").mkdir()
        shutil.copyfile(source.tokenizer, root / "tokenizer" / "tokenizer.json")
    shop.writer.write_manifest(
        Manifest(
            format=FORMAT,
            name=source.name,
            task=source.task,
            source=source.record,
            toolchain=_toolchain(),
            inputs=source.inputs,
            outputs=source.outputs,
            padding_invariant=report.padding_effect is None or report.padding_effect <= PADDING_TOLERANCE,
            special_tokens=source.special_tokens,
            buckets=tuple(
                record if record.name not in report.unverified else record.model_copy(update={"golden": None})
                for record in records
            ),
            overflow=profile.overflow,
            session_budget=profile.session_budget,
            share_weights=profile.share_weights,
            weights=f"graphs/{WEIGHTS}" if (root / "graphs" / WEIGHTS).exists() else None,
            tokenizer="tokenizer/tokenizer.json" if source.tokenizer is not None else None,
            parity_report="parity/report.json",
            files=(),
        )
    )


def _toolchain() -> dict[str, str]:
    """The versions that made the bundle."""
    versions = {"ctx-export": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions
