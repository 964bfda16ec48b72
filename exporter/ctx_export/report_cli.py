"""`ctx-export report`: a bundle as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ctx_export.bench_report import BenchReport, read_bench
from ctx_export.console import BundlePath, Debug, Json, errors, print_json, progress, stdout
from ctx_export.reports import Progress as OnProgress
from ctx_export.tables import shown_path
from ctx_export.traffic import read_traffic
from ctx_runtime.bundle import Bundle
from ctx_runtime.errors import InputError
from ctx_runtime.histogram import LengthHistogram

EPILOG = "Example: [bold]ctx-export report minilm.bundle --traffic lengths.txt -o report.html[/]"

Output = Annotated[Path, typer.Option("-o", "--output", help="The HTML file.")]
Traffic = Annotated[Path | None, typer.Option(help="Lengths of real inputs, as `plan` takes them.")]
Bench = Annotated[Path | None, typer.Option(help="What `bench -o` wrote; without it, the bundle is measured now.")]


def report(
    bundle: BundlePath,
    output: Output,
    traffic: Traffic = None,
    bench: Bench = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write one self-contained page: buckets, latency, padding, parity, quality, sizes and versions."""
    with errors(as_json, debug), progress() as on_progress:
        from ctx_export.report_page import write_page

        histogram = None if traffic is None else read_traffic(traffic)
        opened = Bundle.open(bundle)
        measured = _measure(opened, histogram, on_progress) if bench is None else _read(bench, opened)
        write_page(opened, output, bench=measured, traffic=histogram)
    if as_json:
        print_json({"report": str(output), "bytes": output.stat().st_size})
    else:
        stdout.print(f"wrote {shown_path(output.absolute())}", highlight=False)


def _read(bench: Path, bundle: Bundle) -> BenchReport:
    measured = read_bench(bench)
    if measured.bundle != bundle.manifest.name:
        raise InputError(f"{bench} measured {measured.bundle}, not {bundle.manifest.name}")
    return measured


def _measure(bundle: Bundle, histogram: LengthHistogram | None, on_progress: OnProgress) -> BenchReport | None:
    """A short benchmark; None for a model that generates text, which `bench` does not measure."""
    from ctx_export.benchmarking import bench

    if bundle.manifest.decoder is not None:
        return None
    return bench(bundle, seconds=0.5, traffic=histogram, on_progress=on_progress)
