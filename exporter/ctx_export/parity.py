"""Proves a bucket's graphs against PyTorch: arrays in, report out; no torch here.

Every bucket is run at its edges and inside, alone, in batches and padded; the expected outputs are PyTorch's for the
very same arrays. How much padding or batch mates change an answer is measured beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ctx_runtime.manifest import InputSpec, OutputSpec, Tolerance
from ctx_runtime.parity import FUSION, Form, ParityCase, ParityReport, compare
from ctx_runtime.resource_profile import BucketPlan

Arrays = Mapping[str, np.ndarray]
Example = Callable[[Sequence[int]], dict[str, np.ndarray]]
"""Lengths to padded arrays `(batch, longest, …)`, the mask set."""
Run = Callable[[Arrays], dict[str, np.ndarray]]

GOLDEN = "golden.npz"
_REPORT = "report.json"
_LONG = 2048
"""Beyond it, masked batches grow the quadratic way: they are kept short. In tokens."""
_GOLDEN_POSITIONS = 64
"""Golden token outputs are kept at so many positions, spread over the length."""


@dataclass(frozen=True)
class PlannedCase:
    """One run: the rows' lengths, the graph's form and the length to pad to."""

    form: Form
    lengths: tuple[int, ...]
    padded_to: int
    golden: bool = False


@dataclass
class BucketProof:
    """What proving a bucket gave.

    Attributes:
        cases: one a run.
        golden: arrays of `parity/ctx-128.npz` (see FORMAT.md).
        padding_effect: largest change of an answer by padding, max abs; 0 where nothing was padded, None where it was
            not measured.
        batch_effect: largest change of an answer by batch mates of its own length, max abs, likewise.
    """

    cases: list[ParityCase] = field(default_factory=list)
    golden: dict[str, np.ndarray] = field(default_factory=dict)
    padding_effect: float | None = None
    batch_effect: float | None = None

    def save(self, folder: Path) -> None:
        """Write the proof into an empty folder.

        Golden arrays are not compressed: they shrink by a tenth, and every open of a bundle reads them.
        """
        np.savez(folder / GOLDEN, **self.golden)  # type: ignore[arg-type]
        report = ParityReport(
            cases=tuple(self.cases), padding_effect=self.padding_effect, batch_effect=self.batch_effect
        )
        (folder / _REPORT).write_text(report.model_dump_json())

    @classmethod
    def load(cls, folder: Path) -> BucketProof:
        """Read what `save` wrote, without the golden arrays: they are copied as a file."""
        report = ParityReport.model_validate_json((folder / _REPORT).read_text())
        return cls(list(report.cases), {}, report.padding_effect, report.batch_effect)


def plan_cases(bucket: BucketPlan, *, has_mask: bool) -> tuple[PlannedCase, ...]:
    """The runs that prove `bucket`: its edges, their neighbours, the middle; equal, mixed and padded batches."""
    low, high = bucket.min_length, bucket.max_length
    alone: Form = "unmasked" if has_mask else "masked"
    inside = sorted({low, min(low + 1, high), (low + high) // 2, bucket.opt_length, max(high - 1, low), high})
    cases = [PlannedCase(alone, (n,), n, golden=n == high) for n in inside]
    short = min(high, max(low, _LONG) + 128) if high > _LONG else high
    rows = min(3, bucket.batch.max)
    if rows > 1:
        cases.append(PlannedCase(alone, (low,) * rows, low))
    if has_mask:
        mixed = (low, (low + short) // 2, short)[3 - rows :]
        cases.append(PlannedCase("masked", mixed, max(mixed), golden=True))
        cases.append(PlannedCase("masked", (low,), short))
    return tuple(cases)


def prove_bucket(
    bucket: BucketPlan,
    *,
    inputs: Sequence[InputSpec],
    outputs: Sequence[OutputSpec],
    tolerance: Tolerance,
    example: Example,
    reference: Run,
    runs: Mapping[Form, Run],
) -> BucketProof:
    """Run every planned case of `bucket` through its graphs and through PyTorch.

    Args:
        bucket: the bucket.
        inputs: the model's inputs, for the pad values.
        outputs: the outputs to compare.
        tolerance: of the bucket's precision.
        example: gives arrays for a list of lengths.
        reference: PyTorch.
        runs: the bucket's graphs by form.
    """
    proof = BucketProof()
    for case in plan_cases(bucket, has_mask="unmasked" in runs):
        arrays = pad_to(example(case.lengths), inputs, case.padded_to)
        expected, actual = reference(arrays), runs[case.form](arrays)
        proof.cases.append(
            compare(
                expected,
                actual,
                outputs=outputs,
                bucket=bucket.name,
                form=case.form,
                lengths=case.lengths,
                padded_to=case.padded_to,
                tolerance=tolerance,
            )
        )
        if case.golden:
            _add_golden(proof.golden, arrays, expected, outputs, case)
    proof.padding_effect, proof.batch_effect = _measure_effects(bucket, inputs, outputs, example, runs)
    return proof


def prove_fused(
    window: int,
    *,
    outputs: Sequence[OutputSpec],
    tolerance: Tolerance,
    example: Callable[[int], dict[str, np.ndarray]],
    reference: Run,
    run: Run,
) -> BucketProof:
    """Run rows of several segments through a model's own fusion and through PyTorch.

    Args:
        window: tokens of a segment; the rows are of the lengths around one and two of them, and of five.
        outputs: the outputs to compare.
        tolerance: of the segments' precision.
        example: gives arrays for one row of a length.
        reference: PyTorch.
        run: the graphs of the fusion.
    """
    proof = BucketProof()
    for length in (window + 1, 2 * window - 1, 2 * window, 2 * window + 1, 5 * window):
        arrays, case = example(length), PlannedCase("unmasked", (length,), length)
        expected, actual = reference(arrays), run(arrays)
        proof.cases.append(
            compare(
                expected,
                actual,
                outputs=outputs,
                bucket=FUSION,
                form=case.form,
                lengths=case.lengths,
                padded_to=length,
                tolerance=tolerance,
            )
        )
        if length == 2 * window + 1:
            _add_golden(proof.golden, arrays, expected, outputs, case)
    return proof


def _measure_effects(
    bucket: BucketPlan,
    inputs: Sequence[InputSpec],
    outputs: Sequence[OutputSpec],
    example: Example,
    runs: Mapping[Form, Run],
) -> tuple[float, float]:
    """How far the answer for one row moves when it is padded, and when it stands in a batch of its likes."""
    length = (bucket.min_length + min(bucket.max_length, bucket.min_length + 64)) // 2
    row = example([length])
    alone = runs["unmasked" if "unmasked" in runs else "masked"]
    answer = alone(row)

    def distance(other: dict[str, np.ndarray]) -> float:
        return compare(
            answer,
            other,
            outputs=outputs,
            bucket=bucket.name,
            form="masked",
            lengths=(length,),
            padded_to=length,
            tolerance=Tolerance(max_abs=float("inf"), min_cosine=-1),
        ).max_abs

    padded = runs["masked"](pad_to(row, inputs, min(bucket.max_length, length + 37)))
    if bucket.batch.max == 1:
        return distance(padded), 0.0
    doubled = {spec.name: np.repeat(row[spec.name], 2, axis=0) for spec in inputs}
    return distance(padded), distance(alone(doubled))


def _add_golden(
    golden: dict[str, np.ndarray], arrays: Arrays, expected: Arrays, outputs: Sequence[OutputSpec], case: PlannedCase
) -> None:
    """Add one case to the arrays of `parity/ctx-N.npz`; long token outputs keep some positions only."""
    prefix = f"case{len({key.split('.')[0] for key in golden})}"
    golden[f"{prefix}.lengths"] = np.asarray(case.lengths, dtype=np.int64)
    positions = None
    if case.padded_to > _GOLDEN_POSITIONS:
        positions = np.linspace(0, case.padded_to - 1, _GOLDEN_POSITIONS).astype(np.int64)
        golden[f"{prefix}.positions"] = positions
    golden.update({f"{prefix}.in.{name}": array for name, array in arrays.items()})
    for spec in outputs:
        array = expected[spec.name]
        if positions is not None and spec.length_axis is not None:
            array = np.take(array, positions, axis=spec.length_axis)
        golden[f"{prefix}.out.{spec.name}"] = np.ascontiguousarray(array)


def merge(proofs: Sequence[BucketProof], unverified: Mapping[str, str]) -> ParityReport:
    """One report over all buckets."""
    return ParityReport(
        cases=tuple(case for proof in proofs for case in proof.cases),
        padding_effect=_largest(proof.padding_effect for proof in proofs),
        batch_effect=_largest(proof.batch_effect for proof in proofs),
        unverified=dict(unverified),
    )


def _largest(effects: Iterable[float | None]) -> float | None:
    return max((effect for effect in effects if effect is not None), default=None)


def pad_to(arrays: Arrays, inputs: Sequence[InputSpec], length: int) -> dict[str, np.ndarray]:
    """Arrays `(batch, n, …)` padded along their length axis to `length` tokens with each input's pad value."""
    padded = dict(arrays)
    for spec in inputs:
        axis = spec.length_axis
        if axis is not None and (missing := length - padded[spec.name].shape[axis]) > 0:
            widths = [(0, missing if i == axis else 0) for i in range(padded[spec.name].ndim)]
            padded[spec.name] = np.pad(padded[spec.name], widths, constant_values=spec.pad)
    return padded
