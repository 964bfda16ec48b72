"""From a causal language model to the contents of a bundle; `build_decoder()` reads as their table of contents."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from ctx_export import activation, constants, decoder_parity, heads
from ctx_export.bundle_writer import BundleWriter
from ctx_export.cache import BuildCache, code_digest, digest
from ctx_export.decoder_parity import DecoderProver, interface, scaling_of, write_references
from ctx_export.decoding import blocks, graph, grouped, operators, reference, rotary, step
from ctx_export.decoding import precision as decoder_precision
from ctx_export.decoding.describing import choose_form, describe
from ctx_export.decoding.graph import Decoder, DecoderShape, export_decoder
from ctx_export.decoding.grouped import lower_to_grouped
from ctx_export.decoding.precision import TOLERANCES, convert
from ctx_export.decoding.rotary import rescale
from ctx_export.parity import GOLDEN, BucketProof, merge
from ctx_export.reports import Stages, refuse_failures, write_report
from ctx_export.sources.causal import TASK, CausalSource
from ctx_export.toolchain import toolchain
from ctx_export.weights import WeightStore
from ctx_runtime.bundle import Bundle
from ctx_runtime.decoder import DecoderRecord, DecodingSettings
from ctx_runtime.errors import BackendError, BuildError, SourceError
from ctx_runtime.manifest import FORMAT, Activation, BucketRecord, Manifest, SpecialTokens
from ctx_runtime.parity import ParityReport
from ctx_runtime.resource_profile import BucketPlan, ResourceProfile

_TEMPLATE = "tokenizer/chat_template.jinja"
_WEIGHTS = "weights.bin"
_UNVERIFIED = "unverified.txt"


@dataclass(frozen=True)
class DecoderShop:
    """What every stage of one build works with."""

    source: CausalSource
    profile: ResourceProfile
    cache: BuildCache
    stages: Stages
    writer: BundleWriter
    notes: tuple[str, ...] = ()

    @property
    def plans(self) -> tuple[BucketPlan, ...]:
        """The buckets with everything of the profile resolved."""
        return self.profile.resolve()


def build_decoder(shop: DecoderShop) -> ParityReport:
    """Export the model once, specialise it, prove every bucket and write the bundle's files and manifest.

    Raises:
        BuildError: the profile asks for what the model or its graphs do not have.
        ExportError: the model can't be exported.
        ParityError: a bucket's answers differ from PyTorch's by more than its tolerance.
    """
    _check(shop)
    canonical = export(shop)
    decoder = _describe(shop, canonical.shape)
    records = specialise(shop, canonical, decoder)
    report = prove(shop, decoder, records)
    unproven = [record.model_copy(update={"golden": None}) for record in records if record.name in report.unverified]
    _write_manifest(shop, decoder, tuple({record.name: record for record in (*records, *unproven)}.values()))
    return report


def _check(shop: DecoderShop) -> None:
    """Refuse what no stage could do, before the first of them."""
    source, policy = shop.source, shop.profile.overflow.policy
    if policy not in ("sliding", "error"):
        raise BuildError(
            f"{source.name} generates text, which overflow policy {policy} of profile {shop.profile.name} can't cut",
            hint="set overflow.policy to sliding (old tokens leave, the first ones stay) or error",
        )
    if policy == "sliding" and not source.rotary:
        raise BuildError(
            f"{source.name} has learned positions, which end with the {source.max_length} it was made for",
            hint="set overflow.policy to error",
        )
    if len({plan.precision == "fp16" for plan in shop.plans}) > 1:
        raise BuildError("buckets with fp16 and with other precisions can't pass a cache on", hint="take one of them")
    for plan in shop.plans:
        sub = plan.subnetwork
        if sub is not None and (sub.layers or sub.heads or sub.ffn):
            raise BuildError(
                f"bucket {plan.name} asks for a part of the network, which {source.name} does not have",
                hint="leave only `position_resolution` in `subnetwork`",
            )
        factor = sub.position_resolution.factor if sub is not None and sub.position_resolution is not None else 1.0
        if source.max_length is not None and plan.max_length > source.max_length * factor:
            raise BuildError(
                f"bucket {plan.name} is longer than the {source.max_length} positions of {source.name}",
                hint="take shorter buckets, or give this one a `position_resolution` with a larger factor",
            )


def export(shop: DecoderShop) -> Decoder:
    """The canonical graph of all capacities; its weights stay on disk until they are read."""

    def make(folder: Path) -> None:
        made = export_decoder(shop.source.model)
        ir.save(made.graph, folder / "model.onnx", external_data="model.data")
        (folder / "shape.json").write_text(made.shape.to_json())

    with shop.stages.stage("export"):
        shop.stages.tell("export", 0, 1)
        entry, cached = shop.cache.fetch("export", _export_key(shop.source), make)
        shop.stages.tell("export", 1, 1)
    if cached:
        shop.stages.cached.append("export")
    return Decoder(ir.load(entry / "model.onnx"), DecoderShape.from_json((entry / "shape.json").read_text()))


def _export_key(source: CausalSource) -> str:
    return digest(source.record.sha256, TASK, toolchain(), code_digest(graph, step, operators, constants))


def _describe(shop: DecoderShop, shape: DecoderShape) -> DecoderRecord:
    source = shop.source
    backends = {backend for plan in shop.plans for backend in plan.backends}
    return describe(
        shape,
        shop.profile.decoding or DecodingSettings(),
        form=choose_form(backends, shop.profile.overflow.policy, shape),
        half=shop.plans[0].precision == "fp16",
        bos_token_id=source.bos_token_id,
        eos_token_ids=source.eos_token_ids,
        chat_template=None if source.chat_template is None else _TEMPLATE,
    )


def specialise(shop: DecoderShop, canonical: Decoder, decoder: DecoderRecord) -> tuple[BucketRecord, ...]:
    """Write one graph for each network over one weight store; all buckets of a network share it."""
    folder = shop.writer.root / "graphs"
    folder.mkdir()
    networks: dict[str, ir.Model] = {}
    with shop.stages.stage("specialise"), WeightStore(folder / _WEIGHTS) as store:
        for done, plan in enumerate(shop.plans):
            shop.stages.tell("specialise", done, len(shop.plans))
            if plan.network not in networks:
                networks[plan.network] = network_graph(canonical, plan, decoder, shop.source)
        store.save_graphs({folder / f"{name}.onnx": network for name, network in networks.items()})
        shop.stages.tell("specialise", len(shop.plans), len(shop.plans))
    return tuple(_record(plan, networks[plan.network], decoder) for plan in shop.plans)


def network_graph(canonical: Decoder, plan: BucketPlan, decoder: DecoderRecord, source: CausalSource) -> ir.Model:
    """The graph of a bucket: its rotary positions, its form, its precision."""
    network, sub = canonical.graph, plan.subnetwork
    if sub is not None and sub.position_resolution is not None:
        network = rescale(network, source.model.config, sub.position_resolution)
    if decoder.form == "gqa":
        network = lower_to_grouped(Decoder(network, canonical.shape))
    return convert(network, plan.precision, form=decoder.form)


def _record(plan: BucketPlan, network: ir.Model, decoder: DecoderRecord) -> BucketRecord:
    need: Activation = activation.estimate_activation(network, max_length=decoder.chunk, capacity=plan.max_length)
    return BucketRecord(
        **plan.model_dump(),
        graph=f"graphs/{plan.network}.onnx",
        unmasked_graph=None,
        tolerance=TOLERANCES[plan.precision],
        golden=f"parity/{plan.name}.npz",
        activation=need,
        masked_activation=need,
    )


def prove(shop: DecoderShop, decoder: DecoderRecord, records: Sequence[BucketRecord]) -> ParityReport:
    """Prove every bucket against PyTorch, write golden vectors and the report.

    Raises:
        ParityError: a case is out of tolerance.
    """
    (shop.writer.root / "parity").mkdir()
    with shop.stages.stage("parity"):
        entry, cached = shop.cache.fetch("parity", _proof_key(shop, decoder, records), _maker(shop, decoder, records))
        refused = {record.name: entry / record.name / _UNVERIFIED for record in records}
        unverified = {name: path.read_text() for name, path in refused.items() if path.exists()}
        proven = [record.name for record in records if record.name not in unverified]
        for name in proven:
            shutil.copyfile(entry / name / GOLDEN, shop.writer.root / "parity" / f"{name}.npz")
    if cached:
        shop.stages.cached.append("parity")
    report = merge([BucketProof.load(entry / name) for name in proven], unverified)
    refuse_failures(report)
    write_report(report, shop.writer.root / "parity" / "report.json")
    return report


def _proof_key(shop: DecoderShop, decoder: DecoderRecord, records: Sequence[BucketRecord]) -> str:
    code = code_digest(blocks, decoder_parity, decoder_precision, grouped, heads, reference, rotary)
    stated = [record.model_dump() for record in records]
    return digest(_export_key(shop.source), decoder.model_dump(), stated, code, platform.processor())


def _maker(shop: DecoderShop, decoder: DecoderRecord, records: Sequence[BucketRecord]) -> Callable[[Path], None]:
    """Proves all buckets: what PyTorch says of a text is asked once for all of them."""

    def make(folder: Path) -> None:
        shop.stages.tell("parity", 0, len(records))
        texts = write_references(shop.source, records)
        prover = DecoderProver(shop.writer.root, decoder, shop.source.pad_id)
        for done, record in enumerate(records, 1):
            (folder / record.name).mkdir()
            try:
                prover.prove(record, texts[scaling_of(record)]).save(folder / record.name)
            except BackendError as error:
                (folder / record.name / _UNVERIFIED).write_text(str(error))
            shop.stages.tell("parity", done, len(records))

    return make


def verify_decoder(bundle: Bundle, source: CausalSource, stages: Stages) -> ParityReport:
    """Run every bucket of a bundle against the PyTorch model that it was made from.

    Raises:
        SourceError: the model is not the one that the bundle was made from.
    """
    manifest = bundle.manifest
    decoder, vocabulary = manifest.decoder, source.model.get_output_embeddings().weight.shape[0]
    if decoder is None or decoder.vocab_size != vocabulary:
        raise SourceError(
            f"{source.name} has other inputs or outputs than the bundle {manifest.name}",
            hint="give the model that the bundle was built from",
        )
    texts = write_references(source, manifest.buckets)
    prover, proofs = DecoderProver(bundle.root, decoder, source.pad_id), []
    for done, record in enumerate(manifest.buckets):
        stages.tell("parity", done, len(manifest.buckets))
        proofs.append(prover.prove(record, texts[scaling_of(record)]))
    return merge(proofs, {})


def _write_manifest(shop: DecoderShop, decoder: DecoderRecord, records: tuple[BucketRecord, ...]) -> None:
    """Copy the tokenizer and the chat template, and write the manifest over all files."""
    root, source, profile = shop.writer.root, shop.source, shop.profile
    if source.tokenizer is not None or decoder.chat_template is not None:
        (root / "tokenizer").mkdir()
    if source.tokenizer is not None:
        shutil.copyfile(source.tokenizer, root / "tokenizer" / "tokenizer.json")
    if decoder.chat_template is not None and source.chat_template is not None:
        (root / decoder.chat_template).write_text(source.chat_template, encoding="utf-8")
    ids, logits = interface(decoder, source.pad_id)
    shop.writer.write_manifest(
        Manifest(
            format=FORMAT,
            name=source.name,
            task=TASK,
            source=source.record,
            toolchain=toolchain(),
            inputs=(ids,),
            outputs=(logits,),
            padding_invariant=True,
            special_tokens=SpecialTokens(prefix=() if source.bos_token_id is None else (source.bos_token_id,)),
            buckets=records,
            decoder=decoder,
            overflow=profile.overflow,
            planned_inputs=profile.planned_inputs,
            session_budget=profile.session_budget,
            share_weights=profile.share_weights,
            weights=f"graphs/{_WEIGHTS}",
            tokenizer="tokenizer/tokenizer.json" if source.tokenizer is not None else None,
            parity_report="parity/report.json",
            files=(),
        )
    )
