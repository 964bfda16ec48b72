"""What a build gives back, and the JSON that scripts rely on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ctx_runtime.bundle import Bundle
from ctx_runtime.errors import ParityError
from ctx_runtime.parity import ParityReport

Progress = Callable[[str, int, int], None]
"""Told `(stage, done, total)` as a stage goes on."""


STAGES = ("export", "specialise", "engines", "parity", "total")


@dataclass
class Stages:
    """Times the stages of a build and tells how far each is.

    Attributes:
        seconds: wall time of each stage so far.
        cached: what an earlier build had done already, `stage` or `stage:bucket`.
    """

    on_progress: Progress | None = None
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    cached: list[str] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block as stage `name`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - started

    def tell(self, name: str, done: int, total: int) -> None:
        """Report that `done` of `total` parts of stage `name` are finished."""
        if self.on_progress is not None:
            self.on_progress(name, done, total)


@dataclass(frozen=True)
class BuildReport:
    """A finished build.

    Attributes:
        bundle: the published bundle, opened.
        parity: every case that was run.
        seconds: wall time by stage: export, specialise, engines, parity, total.
        cached: what was taken from the cache.
        notes: what the model decided and the resource profile did not say, in words.
    """

    bundle: Bundle
    parity: ParityReport
    seconds: dict[str, float]
    cached: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def bundle_bytes(self) -> int:
        """The size of all files of the bundle but its manifest."""
        return sum(record.bytes for record in self.bundle.manifest.files)

    @property
    def weights_bytes(self) -> int:
        """The size of the one file with all weights."""
        manifest = self.bundle.manifest
        return sum(record.bytes for record in manifest.files if record.path == manifest.weights)

    def to_json(self) -> dict[str, object]:
        """The object that `ctx-export build --json` prints."""
        return {
            "bundle": str(self.bundle.root),
            "buckets": [
                {
                    "name": bucket.name,
                    "min_length": bucket.min_length,
                    "max_length": bucket.max_length,
                    "precision": bucket.precision,
                    "network": bucket.network,
                    "graph": bucket.graph,
                }
                for bucket in self.bundle.manifest.buckets
            ],
            "weights_bytes": self.weights_bytes,
            "bundle_bytes": self.bundle_bytes,
            "parity": parity_summary(self.parity),
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "cached": list(self.cached),
            "notes": list(self.notes),
        }


def parity_summary(report: ParityReport) -> dict[str, object]:
    """Verdict, worst figures and invariances of a parity report."""
    return {
        "passed": report.passed,
        "worst": {name: value if math.isfinite(value) else None for name, value in report.worst().items()},
        "padding_effect": report.padding_effect,
        "batch_effect": report.batch_effect,
        "unverified": report.unverified,
    }


def write_report(report: ParityReport, path: Path) -> None:
    """Write `parity/report.json`."""
    path.write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")


def refuse_failures(report: ParityReport) -> None:
    """Raise ParityError if a case of `report` is out of tolerance."""
    failures = [case for case in report.cases if not case.passed]
    if failures:
        worst = max(failures, key=lambda case: case.max_abs)
        raise ParityError(
            f"{len(failures)} of {len(report.cases)} parity cases are out of tolerance; worst: {worst.bucket} "
            f"{worst.form}, lengths {list(worst.lengths)}: max abs {worst.max_abs:.3g} (allowed "
            f"{worst.tolerance.max_abs:.3g}), cosine {worst.cosine:.6f} (at least {worst.tolerance.min_cosine})",
            hint="nothing was published; try a higher precision for this bucket",
        )
