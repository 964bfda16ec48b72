"""A bundle as one self-contained page: buckets, latency, padding, parity, quality, sizes and versions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from pydantic import ValidationError

from ctx_export.bench_report import BenchReport
from ctx_export.charts import Series, histogram_chart, line_chart
from ctx_export.costs import AnalyticLatency, CostModel, PaddingRule, TrafficCost
from ctx_export.planning import cut_long
from ctx_export.tables import human_bytes
from ctx_runtime.bundle import Bundle
from ctx_runtime.errors import BundleError, InputError
from ctx_runtime.histogram import LengthHistogram
from ctx_runtime.manifest import BucketRecord, Manifest, QualityRecord
from ctx_runtime.parity import ParityCase, ParityReport
from ctx_runtime.resource_profile import SubNetwork

_WIDE, _NARROW = 820, 340
"""Widths in pixels at which every chart is drawn: for a desk and for a phone."""
_TOKENS = AnalyticLatency(0.0, 1.0, 0.0)
"""A cost that counts tokens."""
_STYLES = "abcdef"
_BATCH = 8


@dataclass(frozen=True)
class Parity:
    """The worst figures of a bucket's parity cases."""

    cases: int
    max_abs: float
    allowed: float
    cosine: float
    top1: float
    passed: bool

    @property
    def used(self) -> float:
        """How much of the tolerance the largest difference takes; 1 is all of it."""
        return self.max_abs / self.allowed


@dataclass(frozen=True)
class BucketRow:
    """A bucket, with the share of the traffic that it takes and what padding it to its end would cost.

    Attributes:
        share: of the inputs; None without traffic.
        padding: share of padding among the tokens, if every row were padded to the bucket's end; None without traffic.
        parity: None where nothing was verified.
    """

    record: BucketRecord
    share: float | None
    padding: float | None
    parity: Parity | None


@dataclass(frozen=True)
class PaddingRow:
    """The share of padding among the tokens that run, if all traffic ran in one way."""

    way: str
    share: float


@dataclass(frozen=True)
class SizeRow:
    """What a part of the bundle takes, in bytes, and its share."""

    part: str
    bytes: int
    share: float


@dataclass(frozen=True)
class Page:
    """Everything that the page shows; what was not given is None or empty, and its section says so."""

    manifest: Manifest
    buckets: tuple[BucketRow, ...]
    traffic: LengthHistogram | None
    lengths_chart: Markup | None
    padding: tuple[PaddingRow, ...]
    bench: BenchReport | None
    latency_chart: Markup | None
    parity: ParityReport | None
    quality: tuple[QualityRecord, ...]
    quality_chart: Markup | None
    sizes: tuple[SizeRow, ...]
    total_bytes: int

    def packages(self) -> list[str]:
        """Every package whose version is known, sorted."""
        return sorted(set(self.manifest.toolchain) | set(self.bench.versions if self.bench else ()))


def write_page(
    bundle: Bundle, path: Path, *, bench: BenchReport | None = None, traffic: LengthHistogram | None = None
) -> None:
    """Write the page of `bundle` to `path`; it loads nothing from elsewhere and runs no script.

    Args:
        bundle: an opened bundle.
        path: the HTML file.
        bench: of the bundle; without it the page has no latencies.
        traffic: real lengths; without it the page has no histogram and no padding.

    Raises:
        BundleError: the parity report of the bundle can't be read.
        InputError: the file can't be written.
    """
    environment = Environment(
        loader=PackageLoader("ctx_export", "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"percent": _percent, "size": human_bytes, "network": network_name}
    text = environment.get_template("report.html.j2").render(page=describe(bundle, bench, traffic))
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path} can't be written: {error.strerror}") from error


def describe(bundle: Bundle, bench: BenchReport | None, traffic: LengthHistogram | None) -> Page:
    """What the page of `bundle` shows."""
    manifest, parity = bundle.manifest, _read_parity(bundle)
    ends = [bucket.max_length for bucket in manifest.buckets]
    cut = None if traffic is None else cut_long(traffic, ends[-1], manifest.overflow.overlap)
    cost = None if cut is None else TrafficCost.of(cut, CostModel(_TOKENS, "bucket"), ends)
    total = sum(file.bytes for file in manifest.files)
    return Page(
        manifest=manifest,
        buckets=tuple(_bucket_rows(manifest, parity, cost)),
        traffic=traffic,
        lengths_chart=None if traffic is None else _drawn(lambda width: histogram_chart(traffic, ends, width=width)),
        padding=() if cut is None else _padding_rows(cut, ends),
        bench=bench,
        latency_chart=None if bench is None else _latency_chart(bench),
        parity=parity,
        quality=manifest.quality,
        quality_chart=_quality_chart(manifest.quality) if manifest.quality else None,
        sizes=tuple(_size_rows(manifest, total)),
        total_bytes=total,
    )


def network_name(subnetwork: SubNetwork | None) -> str:
    """A sub-network in words: `3 layers, 6 heads`; None is the whole network."""
    if subnetwork is None:
        return "full network"
    numbers = {"layers": subnetwork.layers, "heads": subnetwork.heads, "ffn": subnetwork.ffn}
    parts = [f"{number} {name}" for name, number in numbers.items() if number is not None]
    if (scaling := subnetwork.position_resolution) is not None:
        parts.append(f"{scaling.kind} {scaling.factor:g}")
    return ", ".join(parts) or "full network"


def _read_parity(bundle: Bundle) -> ParityReport | None:
    path = bundle.manifest.parity_report
    if path is None:
        return None
    try:
        return ParityReport.model_validate_json(bundle.path(path).read_bytes())
    except ValidationError as error:
        raise BundleError("reference", f"{path} is not a parity report") from error


def _bucket_rows(manifest: Manifest, parity: ParityReport | None, cost: TrafficCost | None) -> list[BucketRow]:
    rows, start = [], 0
    for record in manifest.buckets:
        share = padding = None
        if cost is not None:
            stop = int(cost.lengths.searchsorted(record.max_length, side="right"))
            counts, lengths = cost.counts[start:stop], cost.lengths[start:stop]
            inputs, start = int(counts.sum()), stop
            share = inputs / int(cost.counts.sum())
            padding = 1 - float(counts @ lengths) / (inputs * record.max_length) if inputs else 0.0
        cases = [case for case in parity.cases if case.bucket == record.name] if parity else []
        rows.append(BucketRow(record, share, padding, _worst(cases) if cases else None))
    return rows


def _worst(cases: list[ParityCase]) -> Parity:
    return Parity(
        cases=len(cases),
        max_abs=max(case.max_abs for case in cases),
        allowed=min(case.tolerance.max_abs for case in cases),
        cosine=min(case.cosine for case in cases),
        top1=min(case.top1 for case in cases),
        passed=all(case.passed for case in cases),
    )


def _padding_rows(traffic: LengthHistogram, ends: list[int]) -> tuple[PaddingRow, ...]:
    ways: tuple[tuple[str, PaddingRule, int, list[int]], ...] = (
        ("alone, at their own length", "exact", 1, ends),
        (f"batches of {_BATCH} as they come, by bucket", "batch", _BATCH, ends),
        ("fixed shapes, padded to their bucket's end", "bucket", 1, ends),
        (f"batches of {_BATCH} as they come, without buckets", "batch", _BATCH, ends[-1:]),
        ("all padded to the longest", "bucket", 1, ends[-1:]),
    )
    rows = []
    for way, rule, batch, own in ways:
        run_tokens = TrafficCost.of(traffic, CostModel(_TOKENS, rule, batch), own).total_ms(own)
        rows.append(PaddingRow(way, max(0.0, 1 - traffic.tokens / run_tokens)))
    return tuple(rows)


def _latency_chart(bench: BenchReport) -> Markup:
    lines = [
        Series("runtime, p50", tuple((row.length, row.p50_ms) for row in bench.latency), "a"),
        Series("runtime, p95", tuple((row.length, row.p95_ms) for row in bench.latency), "b"),
    ]
    bare = tuple((row.length, row.bare_p50_ms) for row in bench.latency if row.bare_p50_ms is not None)
    if bare:
        lines.append(Series("bare session, p50", bare, "c"))
    return _drawn(lambda width: line_chart(lines, label="Milliseconds of one row by its length", width=width, log=True))


def _quality_chart(quality: tuple[QualityRecord, ...]) -> Markup:
    """A step line for each metric and sub-network."""
    names = dict.fromkeys((row.metric, row.subnetwork) for row in quality)
    lines = []
    for style, (metric, part) in zip(_STYLES * len(names), names, strict=False):
        rows = sorted((r for r in quality if (r.metric, r.subnetwork) == (metric, part)), key=lambda r: r.min_length)
        points = tuple((float(at), row.value) for row in rows for at in dict.fromkeys((row.min_length, row.max_length)))
        lines.append(Series(f"{metric}, {network_name(part)}", points, style))
    return _drawn(lambda width: line_chart(lines, label="Quality by length of the input", width=width))


def _size_rows(manifest: Manifest, total: int) -> list[SizeRow]:
    part_of: dict[str | None, str] = {manifest.weights: "weights", manifest.parity_report: "golden vectors"}
    for bucket in manifest.buckets:
        part_of |= {bucket.graph: "graphs", bucket.unmasked_graph: "graphs", bucket.golden: "golden vectors"}
    part_of |= {engine.file: "engines" for engine in manifest.engines}
    sizes: dict[str, int] = {}
    for file in manifest.files:
        part = part_of.get(file.path, "tokenizer and the rest")
        sizes[part] = sizes.get(part, 0) + file.bytes
    return [SizeRow(part, size, size / total) for part, size in sorted(sizes.items(), key=lambda item: -item[1])]


def _drawn(draw: Callable[[int], str]) -> Markup:
    """A chart for wide and for narrow screens, of which the page shows one."""
    return Markup(f'<div class="wide">{draw(_WIDE)}</div><div class="narrow">{draw(_NARROW)}</div>')  # noqa: S704 (ours)


def _percent(share: float) -> str:
    return f"{share:.1%}"
