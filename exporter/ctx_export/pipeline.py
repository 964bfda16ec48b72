"""The whole job, from a PyTorch model to a published bundle: `build()` reads as its table of contents."""

from __future__ import annotations

import functools
import math
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
import torch

from ctx_export import (
    activation,
    constants,
    graphs,
    intervals,
    lowering,
    parity,
    precision,
    proving,
    specialising,
    subnetworks,
)
from ctx_export.bundle_writer import BundleWriter
from ctx_export.cache import BuildCache, code_digest, default_cache_dir, digest
from ctx_export.decoder_job import DecoderShop, build_decoder, verify_decoder
from ctx_export.engines.job import build_engines
from ctx_export.engines.targets import check_targets
from ctx_export.fitting import FittedProfile, fit_profile
from ctx_export.parity import GOLDEN, BucketProof, merge
from ctx_export.precision import TOLERANCES
from ctx_export.profiles import load_profile
from ctx_export.reports import BuildReport, Progress, Stages, refuse_failures, write_report
from ctx_export.sources import Source, adaptive, huggingface, load_source, modules, pooling, segmented
from ctx_export.sources import source as source_module
from ctx_export.sources.causal import generates, load_causal
from ctx_export.sources.source import FusionParts
from ctx_export.toolchain import toolchain
from ctx_export.weights import WeightStore
from ctx_runtime import fusing
from ctx_runtime.bundle import Bundle
from ctx_runtime.errors import BackendError, SourceError
from ctx_runtime.manifest import FORMAT, BucketRecord, FusionRecord, Manifest, OutputSpec
from ctx_runtime.parity import FUSION, Form, ParityReport
from ctx_runtime.resource_profile import BucketPlan, ResourceProfile

WEIGHTS = "weights.bin"
_ANY_LENGTH = intervals.Interval(1, math.inf)
PADDING_TOLERANCE = 1e-3
"""A model whose answers padding moves by more than this (max abs) is not padding-invariant."""


@dataclass(frozen=True)
class Workshop:
    """What every stage of one build works with."""

    source: Source
    profile: ResourceProfile
    fitted: FittedProfile
    cache: BuildCache
    stages: Stages
    writer: BundleWriter

    @property
    def fusion(self) -> FusionParts | None:
        """The parts of a model whose own fusion goes into the bundle."""
        return self.source.fusion if self.fitted.fuses else None

    @property
    def notes(self) -> tuple[str, ...]:
        """What the model decided and the profile did not say."""
        return self.fitted.notes

    @property
    def longest(self) -> int:
        """The longest input of the one graph, in tokens."""
        return self.source.max_length or self.fitted.buckets[-1].max_length


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
        model: a Hugging Face folder or cached id, the folder of a length-adaptive model, a `.safetensors` checkpoint
            (with `factory`), or a module (with `example_inputs`).
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
        cache = BuildCache(cache_dir or default_cache_dir())
        shop: Workshop | DecoderShop
        if generates(model, task):
            causal = load_causal(str(model), name=name, allow_pickle=allow_pickle)
            shop = DecoderShop(causal, profile, cache, stages, writer)
            report = build_decoder(shop)
        else:
            source = load_source(
                model, task=task, name=name, factory=factory, example_inputs=example_inputs, allow_pickle=allow_pickle
            )
            shop = Workshop(source, profile, fit_profile(source, profile), cache, stages, writer)
            report = _build(shop)
        if targets:
            add_engines(shop, targets)
        bundle = writer.publish()
    return BuildReport(
        bundle=bundle, parity=report, seconds=stages.seconds, cached=tuple(stages.cached), notes=shop.notes
    )


def _build(shop: Workshop) -> ParityReport:
    """Everything that goes into the folder of a bundle but engines; see `build`."""
    canonical = export(shop)
    records = specialise(shop, canonical)
    report = prove(shop, records)
    _write_manifest(shop, records, report)
    return report


@dataclass(frozen=True)
class Exported:
    """Graphs of all lengths; those of a length-adaptive model have markers, where sub-networks are cut.

    Attributes:
        whole: takes an input in one piece.
        parts: those of the model's own fusion by the file that each becomes.
    """

    whole: ir.Model
    parts: Mapping[str, ir.Model]


def export(shop: Workshop) -> Exported:
    """The one ONNX graph of the whole length range, and those of a fusion; their weights stay on disk until read."""
    parts = shop.fusion.parts() if shop.fusion is not None else {}
    exported: dict[str, ir.Model] = {}
    with shop.stages.stage("export"):
        shop.stages.tell("export", 0, 1 + len(parts))
        whole = _export(shop, shop.source, shop.longest)
        for file, (source, longest) in parts.items():
            shop.stages.tell("export", 1 + len(exported), 1 + len(parts))
            exported[file] = _export(shop, source, longest)
        shop.stages.tell("export", 1 + len(parts), 1 + len(parts))
    return Exported(whole, exported)


def _export(shop: Workshop, source: Source, longest: int) -> ir.Model:
    def make(folder: Path) -> None:
        ir.save(graphs.export_graph(source, max_length=longest), folder / "model.onnx", external_data="model.data")

    entry, cached = shop.cache.fetch("export", _export_key(source, longest), make)
    if cached:
        shop.stages.cached.append("export" if source is shop.source else f"export:{source.name}")
    return ir.load(entry / "model.onnx")


def specialise(shop: Workshop, exported: Exported) -> tuple[BucketRecord, ...]:
    """Write the graphs of every bucket and of the fusion over one weight store."""
    root = shop.writer.root
    (root / "graphs").mkdir()
    made: dict[Path, ir.Model] = {}
    records: list[BucketRecord] = []
    networks: dict[str, ir.Model] = {}
    plans = shop.fitted.buckets
    with shop.stages.stage("specialise"):
        for done, plan in enumerate(plans):
            shop.stages.tell("specialise", done, len(plans))
            if plan.network not in networks:
                networks[plan.network] = _network(shop.source, exported.whole, plan)
            forms = _specialise_bucket(networks[plan.network], plan, shop.source)
            made |= {root / "graphs" / _file_name(plan, form): graph for form, graph in forms.items()}
            records.append(_record(plan, forms))
        for file, part in exported.parts.items():
            network = _network(shop.source, part, plans[-1])
            made[root / file] = lowering.lower_for_onnxruntime(specialising.specialise(network, length=_ANY_LENGTH))
        with WeightStore(root / "graphs" / WEIGHTS) as store:
            store.save_graphs(made)
        shop.stages.tell("specialise", len(plans), len(plans))
    if not (root / "graphs" / WEIGHTS).stat().st_size:
        (root / "graphs" / WEIGHTS).unlink()
    return tuple(records)


def _network(source: Source, exported: ir.Model, plan: BucketPlan) -> ir.Model:
    """The part of a graph that a bucket runs, at its precision, for all lengths."""
    part = subnetworks.cut(exported, plan.subnetwork, rotation=source.rotation(plan.subnetwork))
    return precision.convert(part, plan.precision)


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
    (shop.writer.root / "parity").mkdir()
    steps = {record.name: functools.partial(_prove_bucket, shop, record) for record in records}
    if shop.fusion is not None:
        steps[FUSION] = functools.partial(_prove_fusion, shop, shop.fusion.record, records[-1])
    with shop.stages.stage("parity"):
        report = _run_proofs(steps, shop.stages)
    refuse_failures(report)
    write_report(report, shop.writer.root / "parity" / "report.json")
    return report


def add_engines(shop: Workshop | DecoderShop, targets: Sequence[str]) -> None:
    """Build TensorRT engines from the graphs of the finished folder, and list them in its manifest."""
    root = shop.writer.root
    with shop.stages.stage("engines"):
        bundle = Bundle.open(root, check="sizes")
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
    bundle = Bundle.open(path, check="full")
    manifest = bundle.manifest
    if manifest.decoder is not None:
        return verify_decoder(bundle, load_causal(str(against), allow_pickle=allow_pickle), Stages(on_progress))
    source = load_source(
        against, task=task or manifest.task, factory=factory, example_inputs=example_inputs, allow_pickle=allow_pickle
    )
    if source.inputs != manifest.inputs or not _same_outputs(source.outputs, manifest.outputs):
        raise SourceError(
            f"{source.name} has other inputs or outputs than the bundle {manifest.name}",
            hint="give the model and the task that the bundle was built from",
        )
    steps = {
        record.name: functools.partial(proving.prove_bucket, source, record, bundle.root) for record in manifest.buckets
    }
    if manifest.fusion is not None:
        parts, overlap = (source, manifest.fusion, manifest.buckets[-1], bundle.root), manifest.overflow.overlap
        steps[FUSION] = functools.partial(proving.prove_fusion, *parts, overlap=overlap)
    return _run_proofs(steps, Stages(on_progress))


def _run_proofs(steps: Mapping[str, Callable[[], BucketProof]], stages: Stages) -> ParityReport:
    """One report over the proofs of all buckets, with the reason where one could not be run here."""
    unverified: dict[str, str] = {}
    proofs: list[BucketProof] = []
    for done, (name, step) in enumerate(steps.items()):
        stages.tell("parity", done, len(steps))
        try:
            proofs.append(step())
        except BackendError as error:
            unverified[name] = str(error)
    stages.tell("parity", len(steps), len(steps))
    return merge(proofs, unverified)


def _same_outputs(source: Sequence[OutputSpec], bundle: Sequence[OutputSpec]) -> bool:
    """Whether outputs are the same but for how segments' are fused, which the resource profile says."""
    return [spec.model_copy(update={"fusion": "concat"}) for spec in source] == [
        spec.model_copy(update={"fusion": "concat"}) for spec in bundle
    ]


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
    code = code_digest(graphs, constants, source_module, huggingface, modules, pooling, segmented, *adaptive.CODE)
    return digest(source.record.sha256, source.task, specs, longest, toolchain(), code)


def _prove_bucket(shop: Workshop, record: BucketRecord) -> BucketProof:
    def prove() -> BucketProof:
        return proving.prove_bucket(shop.source, record, shop.writer.root)

    return _proof(shop, record.name, record.golden, prove, record.model_dump())


def _prove_fusion(shop: Workshop, fusion: FusionRecord, longest: BucketRecord) -> BucketProof:
    overlap = shop.fitted.overflow.overlap

    def prove() -> BucketProof:
        return proving.prove_fusion(shop.source, fusion, longest, shop.writer.root, overlap=overlap)

    return _proof(shop, FUSION, fusion.golden, prove, longest.model_dump(), fusion.model_dump(), overlap)


def _proof(
    shop: Workshop, name: str, golden: str | None, prove: Callable[[], BucketProof], *depends_on: object
) -> BucketProof:
    """A proof, from the cache where nothing that it depends on has changed; its golden vectors go into the bundle."""
    code = code_digest(subnetworks, specialising, intervals, lowering, precision, parity, proving, fusing)
    key = digest(_export_key(shop.source, shop.longest), depends_on, code, platform.processor())
    entry, cached = shop.cache.fetch("parity", key, lambda folder: prove().save(folder))
    if cached:
        shop.stages.cached.append(f"parity:{name}")
    if golden is not None:
        shutil.copyfile(entry / GOLDEN, shop.writer.root / golden)
    return BucketProof.load(entry)


def _write_manifest(shop: Workshop, records: Sequence[BucketRecord], report: ParityReport) -> None:
    """Copy the tokenizer and write the manifest over all files."""
    root, source, profile, fitted = shop.writer.root, shop.source, shop.profile, shop.fitted
    if source.tokenizer is not None:
        (root / "tokenizer").mkdir()
        shutil.copyfile(source.tokenizer, root / "tokenizer" / "tokenizer.json")
    shop.writer.write_manifest(
        Manifest(
            format=FORMAT,
            name=source.name,
            task=source.task,
            source=source.record,
            toolchain=toolchain(),
            inputs=source.inputs,
            outputs=fitted.outputs,
            padding_invariant=report.padding_effect is None or report.padding_effect <= PADDING_TOLERANCE,
            special_tokens=source.special_tokens,
            buckets=tuple(
                record if record.name not in report.unverified else record.model_copy(update={"golden": None})
                for record in records
            ),
            fusion=_fusion_record(shop, report),
            quality=source.quality,
            min_quality=profile.min_quality,
            planned_inputs=profile.planned_inputs,
            overflow=fitted.overflow,
            session_budget=profile.session_budget,
            share_weights=profile.share_weights,
            weights=f"graphs/{WEIGHTS}" if (root / "graphs" / WEIGHTS).exists() else None,
            tokenizer="tokenizer/tokenizer.json" if source.tokenizer is not None else None,
            parity_report="parity/report.json",
            files=(),
        )
    )


def _fusion_record(shop: Workshop, report: ParityReport) -> FusionRecord | None:
    """The fusion of the bundle; without golden vectors where it could not be run."""
    if shop.fusion is None:
        return None
    record = shop.fusion.record
    return record if FUSION not in report.unverified else record.model_copy(update={"golden": None})
