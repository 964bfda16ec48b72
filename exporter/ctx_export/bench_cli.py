"""`ctx-export bench`: what a bundle does on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group
from rich.table import Table

from ctx_export.bench_report import BenchReport, write_bench
from ctx_export.console import BundlePath, Debug, Json, errors, print_json, progress, stdout
from ctx_export.tables import human_bytes, plain_table
from ctx_export.traffic import read_traffic
from ctx_runtime.bundle import Bundle
from ctx_runtime.errors import InputError

EPILOG = "Example: [bold]ctx-export bench minilm.bundle --traffic lengths.txt -o bench.json[/]"

Output = Annotated[Path | None, typer.Option("-o", "--output", help="Write the JSON that plan and report take.")]
Lengths = Annotated[str | None, typer.Option(help="Lengths in tokens, such as 16,64,256.")]
Seconds = Annotated[float, typer.Option(help="How long each length is measured.")]
Traffic = Annotated[
    Path | None, typer.Option(help="Lengths of real inputs, as `plan` takes them: measures throughput.")
]
Inputs = Annotated[int, typer.Option(min=1, help="How many inputs are drawn from the traffic.")]


def bench(
    bundle: BundlePath,
    output: Output = None,
    lengths: Lengths = None,
    seconds: Seconds = 2.0,
    traffic: Traffic = None,
    inputs: Inputs = 200,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure latency by length, throughput, opening and memory, in turns with a bare ONNX Runtime session."""
    with errors(as_json, debug), progress() as on_progress:
        from ctx_export.benchmarking import bench as run_bench

        histogram = None if traffic is None else read_traffic(traffic)
        report = run_bench(
            Bundle.open(bundle), lengths=_numbers(lengths), seconds=seconds, traffic=histogram, inputs=inputs,
            on_progress=on_progress,
        )  # fmt: skip
        if output is not None:
            write_bench(report, output)
    if as_json:
        print_json(report.model_dump(mode="json"))
    else:
        stdout.print(_bench_tables(report))


def _numbers(text: str | None) -> list[int]:
    try:
        return [int(part) for part in text.split(",")] if text else []
    except ValueError:
        raise InputError(f"{text!r} is not a list of lengths", hint="--lengths 16,64,256") from None


def _bench_tables(report: BenchReport) -> Group:
    """Latency by length, then throughput, opening and memory."""
    lines = [f"{report.processor}, {report.threads} threads"]
    if (rates := report.throughput) is not None:
        bare = "" if rates.bare is None else f", bare sessions one by one {rates.bare:,.0f}"
        lines.append(
            f"{rates.inputs} inputs: {rates.together:,.0f} tokens/s together ({rates.padding_share:.1%} padding), "
            f"{rates.one_by_one:,.0f} one by one{bare}"
        )
    opening = report.opening
    peer = "" if opening.bare_open_ms is None else f" (bare {opening.bare_open_ms:.0f} ms)"
    lines.append(
        f"verified in {opening.verify_ms:.0f} ms, all buckets run once in {opening.first_runs_ms:.0f} ms{peer}"
    )
    if opening.pss_bytes is not None:
        peer = "" if opening.bare_pss_bytes is None else f" (bare {human_bytes(opening.bare_pss_bytes)})"
        lines.append(f"memory (PSS) with all buckets open: {human_bytes(opening.pss_bytes)}{peer}")
    return Group(_latency_table(report), "", *lines)


def _latency_table(report: BenchReport) -> Table:
    table = plain_table(f"{report.bundle}: milliseconds of one row")
    for heading in ("tokens", "bucket", "p50", "p95", "p99", "bare p50", "runtime / bare"):
        table.add_column(heading, justify="left" if heading == "bucket" else "right", no_wrap=True)
    for row in report.latency:
        bare = row.bare_p50_ms
        table.add_row(
            str(row.length), row.bucket, *(f"{value:.2f}" for value in (row.p50_ms, row.p95_ms, row.p99_ms)),
            *(("-", "-") if bare is None else (f"{bare:.2f}", f"{row.p50_ms / bare:.2f}")),
        )  # fmt: skip
    return table
