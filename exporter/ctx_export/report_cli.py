"""`ctx-export report`: a bundle as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ctx_export.bench_report import read_bench
from ctx_export.console import BundlePath, Debug, Json, errors, print_json, progress, stdout
from ctx_export.tables import shown_path
from ctx_export.traffic import read_traffic
from ctx_runtime.bundle import Bundle
from ctx_runtime.errors import InputError

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
        from ctx_export.benchmarking import bench as run_bench
        from ctx_export.report_page import write_page

        histogram = None if traffic is None else read_traffic(traffic)
        opened = Bundle.open(bundle)
        if bench is None:
            measured = run_bench(bundle, seconds=0.5, traffic=histogram, on_progress=on_progress)
        else:
            measured = read_bench(bench)
            if measured.bundle != opened.manifest.name:
                raise InputError(f"{bench} measured {measured.bundle}, not {opened.manifest.name}")
        write_page(opened, output, bench=measured, traffic=histogram)
    if as_json:
        print_json({"report": str(output), "bytes": output.stat().st_size})
    else:
        stdout.print(f"wrote {shown_path(output.absolute())}", highlight=False)
