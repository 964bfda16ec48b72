"""`ctx-export capacity`: the replicas that serve real traffic at a rate, within a time."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group
from rich.table import Table

from ctx_export.bench_report import read_latency
from ctx_export.capacity import Capacity, Replicas, Target, plan_capacity
from ctx_export.console import Debug, Json, errors, print_json, stdout
from ctx_export.profiles import load_profile
from ctx_export.tables import plain_table
from ctx_export.traffic import read_traffic

EPILOG = "Example: [bold]ctx-export capacity --traffic lengths.txt -p planned.yaml --rate 50 --within 200[/]"

Traffic = Annotated[Path, typer.Option(help="Lengths in tokens: text, .csv, .jsonl, .parquet or a recorded .json.")]
Profile = Annotated[str, typer.Option("-p", "--profile", help="The resource profile that has the buckets.")]
Rate = Annotated[float, typer.Option(help="Requests a second, of all lengths together.")]
Within = Annotated[float, typer.Option(help="Milliseconds in which requests shall end.")]
Percent = Annotated[float, typer.Option(help="The share of the requests that shall, in percent.")]
Column = Annotated[str, typer.Option(help="The column of a table.")]
Cost = Annotated[
    str | None, typer.Option(help="What ctx-export bench -o wrote, or FIXED,LINEAR,QUADRATIC in milliseconds.")
]
Requests = Annotated[int, typer.Option(help="Requests to simulate.")]
Seed = Annotated[int, typer.Option(help="Of the simulation.")]


def capacity(
    traffic: Traffic,
    profile: Profile,
    rate: Rate,
    within: Within,
    percent: Percent = 95.0,
    column: Column = "length",
    cost: Cost = None,
    requests: Requests = 20_000,
    seed: Seed = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say how many replicas serve traffic at a rate within a time: of each bucket, or of all in one pool."""
    with errors(as_json, debug):
        buckets = load_profile(profile)
        needed = plan_capacity(
            read_traffic(traffic, column=column),
            read_latency(cost)[0],
            [bucket.max_length for bucket in buckets.resolve()],
            Target(rate, within, percent, requests, seed),
            overlap=buckets.overflow.overlap,
        )
    if as_json:
        print_json(needed.to_json())
    else:
        stdout.print(_tables(needed))


def _tables(needed: Capacity) -> Group:
    target, separate = needed.target, sum(part.replicas for part in needed.by_bucket)
    table = plain_table(f"{target.rate:g} requests a second, {target.percent:g} % of them within {target.ms:g} ms")
    for heading in ("bucket", "requests", "a second", "ms alone", "replicas", "busy", "ms on paper", "ms simulated"):
        table.add_column(heading, justify="left" if heading == "bucket" else "right", no_wrap=True)
    for part in needed.by_bucket:
        _add(table, part)
    table.add_section()
    _add(table, needed.pooled)
    return Group(
        table,
        f"{separate} replicas if each serves one bucket, {needed.pooled.replicas} if each serves all; "
        f"{target.requests:,} requests simulated, seed {target.seed}",
    )


def _add(table: Table, part: Replicas) -> None:
    table.add_row(
        part.name, f"{part.share:.1%}", f"{part.rate:.3g}", f"{part.mean_ms:.3g}", str(part.replicas),
        f"{part.busy:.0%}", f"{part.paper_ms:.3g}", f"{part.simulated_ms:.3g}",
    )  # fmt: skip
