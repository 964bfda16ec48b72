"""The tables that commands end with; nothing is printed here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from ctx_export.doctor import Diagnosis, Part
from ctx_export.engines import BuiltEngine
from ctx_export.reports import BuildReport
from ctx_runtime.parity import FUSION, ParityCase, ParityReport

if TYPE_CHECKING:  # they load torch
    from ctx_export.language_job import LanguageReport
    from ctx_models.evaluation import QualityTable

_MEASURES = {"loss": "loss", "precision": "precision", "recall": "recall", "f1": "F1", "accuracy": "accuracy",
             "perplexity": "perplexity", "mrr": "MRR", "recall_at_1": "recall@1", "latency_ms": "ms"}  # fmt: skip
"""Headings of what a quality table may hold."""
_YES, _NO = "[green]yes[/]", "[red]no[/]"


def build_table(report: BuildReport) -> Group:
    """Buckets with their parity, then sizes and times."""
    table = plain_table(f"{report.bundle.manifest.name} -> {shown_path(report.bundle.root)}")
    for heading in ("bucket", "tokens", "network"):
        table.add_column(heading, no_wrap=True)
    for heading in ("cases", "max abs", "cosine", "top-1"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("parity")
    manifest = report.bundle.manifest
    rows = [(b.name, f"{b.min_length}..{b.max_length}", b.network) for b in manifest.buckets]
    if manifest.fusion is not None:
        rows.append((FUSION, f"{manifest.max_length + 1}..", manifest.buckets[-1].network))
    for name, tokens, network in rows:
        cases = [case for case in report.parity.cases if case.bucket == name]
        verdict = report.parity.unverified.get(name, _verdict(all(case.passed for case in cases)))
        table.add_row(name, tokens, network, str(len(cases)), *_worst(cases), verdict)
    return Group(table, *build_summary(report))


def build_summary(report: BuildReport) -> Iterable[str]:
    """What the model decided, sizes, times and what came from the cache, a line each."""
    yield from report.notes
    yield f"weights {human_bytes(report.weights_bytes)}, bundle {human_bytes(report.bundle_bytes)}"
    times = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in report.seconds.items())
    yield times
    if report.cached:
        yield f"from the cache: {', '.join(report.cached)}"
    yield from invariance_lines(report.parity)


def engine_table(engines: Sequence[BuiltEngine], *, inspect: bool) -> Group:
    """A row for each optimization profile; with `inspect`, the layers of each engine, and whether it fits here."""
    table = plain_table()
    for heading in ("target", "size", "bucket", "profile", "min", "opt", "max"):
        table.add_column(heading, justify="right" if heading in ("size", "profile") else "left", no_wrap=True)
    lines = [] if engines else ["the bundle has no engines; --target builds some"]
    for engine in engines:
        first = ["+".join(engine.record.targets), human_bytes(engine.outcome.bytes)]
        for profile in engine.profiles:
            shapes = next(iter(profile.inputs.values()))
            bounds = ("x".join(map(str, dims)) for dims in (shapes.min, shapes.opt, shapes.max))
            table.add_row(*first, profile.bucket, str(profile.index), *bounds)
            first = [""] * 2
        made = "from the cache" if engine.cached else f"{engine.outcome.seconds:.1f} s"
        peak = human_bytes(engine.outcome.peak_host_bytes)
        lines.append(f"{engine.record.file}: {made}, at most {peak} of host memory, {engine.record.library_version}")
        if inspect:
            lines.append("  " + ", ".join(f"{count} {kind}" for kind, count in engine.outcome.layers.items()))
            misfit = engine.misfit
            lines.append("  fits this machine" if misfit is None else f"  does not fit this machine: {escape(misfit)}")
    return Group(table, *lines)


def parity_table(report: ParityReport) -> Group:
    """Every case, worst figures last."""
    table = plain_table()
    for heading in ("bucket", "graph", "lengths", "padded to"):
        table.add_column(heading)
    for heading in ("max abs", "cosine", "top-1", "allowed"):
        table.add_column(heading, justify="right")
    table.add_column("parity")
    for case in report.cases:
        table.add_row(
            case.bucket,
            case.form,
            ", ".join(map(str, case.lengths)),
            str(case.padded_to),
            f"{case.max_abs:.2e}",
            f"{case.cosine:.6f}",
            f"{case.top1:.1%}",
            f"{case.tolerance.max_abs:.0e}",
            _verdict(case.passed),
        )
    return Group(table, *invariance_lines(report))


def invariance_lines(report: ParityReport) -> Iterable[str]:
    """How much padding and batch mates move an answer, and what could not be run."""
    if report.padding_effect is not None and report.batch_effect is not None:
        yield f"moved by padding: {report.padding_effect:.1e}, by batch mates: {report.batch_effect:.1e} (max abs)"
    for bucket, reason in report.unverified.items():
        yield f"[yellow]{bucket} could not be run here: {reason}[/]"


def quality_table(quality: QualityTable, *, title: str | None = None) -> Table:
    """A row for each sub-network and range of lengths; over all lengths last."""
    table = plain_table(title)
    rows = (*quality.rows, *quality.overall)
    measures = [name for name in _MEASURES if any(getattr(row, name) is not None for row in rows)]
    for heading in ("network", "tokens"):
        table.add_column(heading, no_wrap=True)
    for heading in ("examples", *(_MEASURES[name] for name in measures)):
        table.add_column(heading, justify="right", no_wrap=True)
    for subnetwork in dict.fromkeys(row.subnetwork for row in quality.overall):
        for row in (row for row in rows if row.subnetwork == subnetwork):
            tokens = "all" if row in quality.overall else f"{row.min_length}..{row.max_length}"
            values = (getattr(row, name) for name in measures)
            shown = ("-" if value is None else f"{value:.4f}" for value in values)
            table.add_row(str(subnetwork), tokens, str(row.examples), *shown)
        table.add_section()
    return table


def language_table(report: LanguageReport) -> Table:
    """A row for each length."""
    table = plain_table(report.model)
    for heading in ("tokens", "read by"):
        table.add_column(heading, justify="left" if heading == "read by" else "right", no_wrap=True)
    headings = {"accuracy": "accuracy", "perplexity": "perplexity", "agreement": "same top-1"}
    measures = [name for name in headings if any(getattr(score, name) is not None for score in report.scores)]
    for heading in ("answers" if report.bar is not None else "scored", *(headings[name] for name in measures)):
        table.add_column(heading, justify="right", no_wrap=True)
    for score in report.scores:
        shown = (f"{getattr(score, name):.4f}" for name in measures)
        table.add_row(str(score.length), score.place, str(score.scored), *shown)
    return table


def doctor_table(diagnosis: Diagnosis) -> Group:
    """Packages, builders and backends; then how to get what is missing, a line each."""
    table = plain_table()
    for heading in ("part", "name", "here"):
        table.add_column(heading, no_wrap=True)
    table.add_column("detail", overflow="fold")
    sections: tuple[tuple[str, tuple[Part, ...]], ...] = (
        ("package", diagnosis.packages),
        ("builds", diagnosis.builders),
        ("runs", diagnosis.backends),
    )
    for section, parts in sections:
        for part in parts:
            table.add_row(section, part.name, _YES if part.available else _NO, part.detail)
        table.add_section()
    hints: dict[str, list[str]] = {}
    for part in (part for _, parts in sections for part in parts if part.hint):
        hints.setdefault(escape(part.hint or ""), []).append(part.name)
    lines = [f"{hint}  for {', '.join(dict.fromkeys(names))}" for hint, names in hints.items()]
    return Group(diagnosis.system, f"GPUs: {', '.join(diagnosis.devices) or 'none'}", table, "", *lines)


def plain_table(title: str | None = None) -> Table:
    """A table with a line under its headings and no frame: 80 columns are few."""
    return Table(
        title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False
    )


def shown_path(path: Path) -> Path:
    """`path` as seen from the working directory, if it lies there."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def human_bytes(size: int) -> str:
    """`91.4 MB`, in powers of ten."""
    value = float(size)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"


def _worst(cases: list[ParityCase]) -> tuple[str, str, str]:
    if not cases:
        return "-", "-", "-"
    return (
        f"{max(case.max_abs for case in cases):.1e}",
        f"{min(case.cosine for case in cases):.6f}",
        f"{min(case.top1 for case in cases):.1%}",
    )


def _verdict(passed: bool) -> str:
    return "[green]pass[/]" if passed else "[red]fail[/]"
