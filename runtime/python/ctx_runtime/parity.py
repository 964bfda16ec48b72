"""What counts as the same answer: arrays in, figures out. The build and the device use the same comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from ctx_runtime.manifest import OutputSpec, Tolerance

Form = Literal["masked", "unmasked"]
FUSION = "fusion"
"""What cases of rows in segments, which the model fuses itself, have in the place of a bucket."""


class ParityCase(BaseModel):
    """How far one run of a bucket's graph is from the expected outputs, over all outputs and rows.

    Attributes:
        lengths: the true length of each row, in tokens.
        padded_to: the length that the rows were padded to; equal to the longest where nothing was added.
        max_rel: largest `|a - b| / max(|b|, 1e-3)`.
        cosine: smallest cosine of a row's flattened output.
        top1: share of equal argmax over the last axis, over all positions.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    bucket: str
    form: Form
    lengths: tuple[int, ...]
    padded_to: int
    max_abs: float
    max_rel: float
    cosine: float
    top1: float
    tolerance: Tolerance
    passed: bool

    @property
    def length(self) -> int:
        """The longest row, in tokens."""
        return max(self.lengths)

    @property
    def batch(self) -> int:
        """The number of rows."""
        return len(self.lengths)

    def to_json(self) -> dict[str, object]:
        """The case as scripts read it; a figure that is not finite is null."""
        figures = {"max_abs": self.max_abs, "max_rel": self.max_rel, "cosine": self.cosine, "top1": self.top1}
        return {
            "bucket": self.bucket,
            "form": self.form,
            "length": self.length,
            "batch": self.batch,
            "lengths": list(self.lengths),
            "padded_to": self.padded_to,
            **{name: value if np.isfinite(value) else None for name, value in figures.items()},
            "tolerance": self.tolerance.model_dump(),
            "passed": self.passed,
        }


class ParityReport(BaseModel):
    """The cases of all buckets.

    Attributes:
        padding_effect: largest change (max abs) of an answer when its row is padded; None: not measured.
        batch_effect: the same when the row shares its batch with others of its length.
        unverified: buckets that could not run on the machine that made the report, with the reason.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    cases: tuple[ParityCase, ...]
    padding_effect: float | None = None
    batch_effect: float | None = None
    unverified: dict[str, str] = {}

    @property
    def passed(self) -> bool:
        """Every bucket was run, and every case is within its tolerance."""
        return bool(self.cases) and not self.unverified and all(case.passed for case in self.cases)

    def worst(self) -> dict[str, float]:
        """The largest `max_abs` and the smallest `cosine` of all cases."""
        return {
            "max_abs": max((case.max_abs for case in self.cases), default=0.0),
            "cosine": min((case.cosine for case in self.cases), default=1.0),
        }


def compare(
    expected: Mapping[str, np.ndarray],
    actual: Mapping[str, np.ndarray],
    *,
    outputs: Sequence[OutputSpec],
    bucket: str,
    form: Form,
    lengths: Sequence[int],
    padded_to: int,
    tolerance: Tolerance,
) -> ParityCase:
    """Compare `outputs` of `(batch, …)` arrays row by row, over each row's own length only.

    NaN on either side, or a shape that differs, is a failure with `max_abs` infinite, never a pass.
    """
    max_abs = max_rel = 0.0
    cosine = top1 = 1.0
    for spec in outputs:
        hits = total = 0
        for row, length in enumerate(lengths):
            a = _crop(actual[spec.name][row], spec, length)
            b = _crop(expected[spec.name][row], spec, length)
            if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
                max_abs, max_rel, cosine = float("inf"), float("inf"), -1.0
                continue
            difference = np.abs(a - b)
            max_abs = max(max_abs, float(difference.max()))
            max_rel = max(max_rel, float((difference / np.maximum(np.abs(b), 1e-3)).max()))
            cosine = min(cosine, _cosine(a.ravel(), b.ravel()))
            agree = a.argmax(-1) == b.argmax(-1)
            hits, total = hits + int(agree.sum()), total + agree.size
        top1 = min(top1, hits / total if total else 0.0)
    passed = max_abs <= tolerance.max_abs and cosine >= tolerance.min_cosine
    return ParityCase(
        bucket=bucket, form=form, lengths=tuple(lengths), padded_to=padded_to, max_abs=max_abs, max_rel=max_rel,
        cosine=cosine, top1=top1, tolerance=tolerance, passed=passed,
    )  # fmt: skip


def _crop(row: np.ndarray, spec: OutputSpec, length: int) -> np.ndarray:
    """One row without its padding, in float64; `row` has lost the batch axis."""
    axis = spec.length_axis
    if axis is not None:
        row = row[(slice(None),) * (axis - 1) + (slice(length),)]
    return row.astype(np.float64)


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norms if norms else float(np.array_equal(a, b))
