"""Proves a bundle on the device, without PyTorch: golden inputs through the backends, against the stored outputs."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ctx_runtime.bundle import Bundle
from ctx_runtime.decoder import DecoderRecord
from ctx_runtime.dispatch import Dispatcher
from ctx_runtime.errors import BackendError
from ctx_runtime.fusing import Fuser
from ctx_runtime.generation.stepping import Stepper
from ctx_runtime.manifest import BucketRecord, FusionRecord, Manifest, Tolerance
from ctx_runtime.padding import RowLayout
from ctx_runtime.parity import FUSION, Form, ParityCase, ParityReport, compare
from ctx_runtime.resource_profile import BackendName


@dataclass(frozen=True)
class GoldenCase:
    """One stored run: arrays `(batch, longest, …)`, the rows' lengths, and PyTorch's outputs.

    Attributes:
        positions: token outputs are stored at these positions only, ascending from 0, `(n,)`; None: at all.
    """

    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]
    lengths: tuple[int, ...]
    positions: np.ndarray | None


def verify(
    bundle: str | os.PathLike[str] | Bundle,
    *,
    backends: Sequence[BackendName] | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> ParityReport:
    """Run the golden vectors of every bucket on the backends that serve it here.

    A bucket that no backend serves, or that carries no vectors, stands in `unverified` with the reason.

    Raises:
        BundleError: the bundle is not sound.
    """
    bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle, check="full")
    manifest, cases = bundle.manifest, list[ParityCase]()
    unverified: dict[str, str] = {}
    dispatcher = Dispatcher(bundle, backends=backends, share_weights=manifest.share_weights, session_budget=None)
    with closing(dispatcher):
        for done, bucket in enumerate(manifest.buckets):
            if on_progress is not None:
                on_progress("parity", done, len(manifest.buckets))
            if bucket.golden is None:
                unverified[bucket.name] = "the bundle carries no golden vectors for it"
                continue
            try:
                for case in read_golden(bundle.path(bucket.golden), manifest):
                    cases.append(_run_case(dispatcher, manifest, bucket, case))
            except BackendError as error:
                unverified[bucket.name] = str(error)
        if manifest.fusion is not None:
            try:
                cases += _run_fusion(bundle, manifest.fusion, dispatcher)
            except BackendError as error:
                unverified[FUSION] = str(error)
    return ParityReport(cases=tuple(cases), unverified=unverified)


def _run_fusion(bundle: Bundle, fusion: FusionRecord, dispatcher: Dispatcher) -> list[ParityCase]:
    """The golden rows in segments, in the place of whose bucket stands `fusion`.

    Raises:
        BackendError: no backend serves its graphs, or the bundle carries no vectors for it.
    """
    if fusion.golden is None:
        raise BackendError("the bundle carries no golden vectors for it")
    manifest = bundle.manifest
    layout = RowLayout(manifest.inputs, manifest.outputs)
    fuser = Fuser(manifest, fusion, dispatcher, layout)
    cases: list[ParityCase] = []
    for case in read_golden(bundle.path(fusion.golden), manifest):
        rows, _ = layout.read(case.inputs)
        actual = layout.join([fuser.run(row).outputs for row in rows])
        cases.append(_compare(manifest, case, actual, FUSION, manifest.buckets[-1].tolerance, "unmasked"))
    return cases


def read_golden(path: Path, manifest: Manifest) -> list[GoldenCase]:
    """The cases of a `parity/ctx-N.npz` of an opened bundle, which has been checked to hold them whole."""
    with np.load(path, allow_pickle=False) as archive:
        arrays = dict(archive.items())
    return [_case(arrays, f"case{index}", manifest) for index in range(_count(arrays))]


def _count(arrays: Mapping[str, np.ndarray]) -> int:
    return len({name.split(".", 1)[0] for name in arrays})


def _case(arrays: Mapping[str, np.ndarray], prefix: str, manifest: Manifest) -> GoldenCase:
    return GoldenCase(
        inputs={spec.name: arrays[f"{prefix}.in.{spec.name}"] for spec in manifest.inputs},
        outputs={spec.name: arrays[f"{prefix}.out.{spec.name}"] for spec in manifest.outputs},
        lengths=tuple(int(length) for length in arrays[f"{prefix}.lengths"]),
        positions=arrays.get(f"{prefix}.positions"),
    )


def _run_text(
    dispatcher: Dispatcher, manifest: Manifest, decoder: DecoderRecord, bucket: BucketRecord, case: GoldenCase
) -> ParityCase:
    """A text through a decoder; `top1` is the share of its greedy tokens that the bucket finds most likely too."""
    ids = case.inputs["input_ids"][0].tolist()
    with dispatcher.session(bucket, "masked") as session:
        run = functools.partial(session.run, bucket=bucket.name)
        logits = Stepper(run, session.inputs, decoder, capacity=bucket.max_length).read(ids)
    measured = _compare(manifest, case, {"logits": logits[-1:]}, bucket.name, bucket.tolerance, "masked")
    chosen = logits[:-1].argmax(-1) == ids[len(ids) + 1 - len(logits) :]
    return measured.model_copy(update={"top1": float(chosen.mean())}) if len(chosen) else measured


def _padded_to(manifest: Manifest, case: GoldenCase) -> int:
    lengths = (case.inputs[spec.name].shape[axis] for spec in manifest.inputs if (axis := spec.length_axis))
    return int(max(lengths))


def _run_case(dispatcher: Dispatcher, manifest: Manifest, bucket: BucketRecord, case: GoldenCase) -> ParityCase:
    if manifest.decoder is not None:
        return _run_text(dispatcher, manifest, manifest.decoder, bucket, case)
    full = all(length == _padded_to(manifest, case) for length in case.lengths)
    form: Form = "unmasked" if full and manifest.mask is not None else "masked"
    with dispatcher.session(bucket, form) as session:
        actual = session.run({name: case.inputs[name] for name in session.inputs}, bucket=bucket.name)
    return _compare(manifest, case, actual, bucket.name, bucket.tolerance, form)


def _compare(
    manifest: Manifest,
    case: GoldenCase,
    actual: dict[str, np.ndarray],
    bucket: str,
    tolerance: Tolerance,
    form: Form,
) -> ParityCase:
    lengths, padded_to = case.lengths, _padded_to(manifest, case)
    if case.positions is not None:
        lengths = tuple(int(np.searchsorted(case.positions, length)) for length in case.lengths)
        for spec in manifest.outputs:
            if spec.length_axis is not None:
                actual[spec.name] = np.take(actual[spec.name], case.positions, axis=spec.length_axis)
    measured = compare(
        case.outputs,
        actual,
        outputs=manifest.outputs,
        bucket=bucket,
        form=form,
        lengths=lengths,
        padded_to=padded_to,
        tolerance=tolerance,
    )
    return measured.model_copy(update={"lengths": case.lengths})
