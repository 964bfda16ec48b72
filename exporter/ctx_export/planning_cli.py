"""`ctx-export plan`: a resource profile whose buckets fit real traffic."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group
from rich.table import Table

from ctx_export.bench_report import BenchReport, read_latency
from ctx_export.boundaries import MemoryLimit
from ctx_export.console import Debug, Json, errors, print_json, progress, stdout
from ctx_export.costs import CostModel, PaddingRule
from ctx_export.planned_profile import DEFAULTS, overlap_for, planned_profile, write_profile
from ctx_export.planning import Budget, Plan, cut_long, plan_buckets
from ctx_export.profiles import load_profile
from ctx_export.tables import plain_table, shown_path
from ctx_export.traffic import Split, read_traffic
from ctx_runtime.errors import InputError
from ctx_runtime.resource_profile import parse_bytes

EPILOG = "Example: [bold]ctx-export plan --traffic lengths.txt --buckets 6 -o planned.yaml[/]"

Traffic = Annotated[
    Path,
    typer.Option(
        help="Lengths in tokens: text, .csv, .jsonl, .parquet or a recorded .json; or a folder of .txt files."
    ),
]
Output = Annotated[
    Path, typer.Option("-o", "--output", help="Where the resource profile goes; its name is the file's.")
]
Column = Annotated[str, typer.Option(help="The column of a table.")]
TokenizerPath = Annotated[
    Path | None, typer.Option(help="A tokenizer.json, or a model's or bundle's folder: the traffic is text.")
]
SplitBy = Annotated[Split, typer.Option(help="What one input is in a folder of texts.")]
Base = Annotated[
    str | None, typer.Option("-p", "--profile", help="A resource profile whose settings the new one takes.")
]
Padding = Annotated[
    PaddingRule,
    typer.Option(help="exact: rows alone at their length; batch: batched as they come; bucket: fixed shapes."),
]
Batch = Annotated[int, typer.Option(help="Rows that run together.")]
Cost = Annotated[
    str | None, typer.Option(help="What ctx-export bench -o wrote, or FIXED,LINEAR,QUADRATIC in milliseconds.")
]
Buckets = Annotated[int, typer.Option(help="The most buckets.")]
MaxLength = Annotated[int | None, typer.Option(help="Where the last bucket ends; longer inputs run in segments.")]
MemoryBudget = Annotated[str | None, typer.Option(help="Of the weights and one run in every bucket: '512 MiB'.")]
DiskBudget = Annotated[str | None, typer.Option(help="Of the bundle: '200 MB'.")]
BuildBudget = Annotated[float | None, typer.Option(help="Seconds that all buckets may add to the build.")]
BucketSeconds = Annotated[float, typer.Option(help="Seconds that one bucket adds to the build.")]
MinGain = Annotated[float, typer.Option(help="The share of the cost that each further bucket must save.")]
Resamples = Annotated[int, typer.Option(help="How often traffic is drawn anew to see how stable the plan is.")]
Plot = Annotated[Path | None, typer.Option(help="Draw lengths, boundaries and costs: .png, .svg or .pdf.")]


def plan(
    traffic: Traffic,
    output: Output,
    column: Column = "length",
    tokenizer: TokenizerPath = None,
    split: SplitBy = "file",
    profile: Base = None,
    padding: Padding = "bucket",
    batch: Batch = 1,
    cost: Cost = None,
    buckets: Buckets = 8,
    max_length: MaxLength = None,
    memory_budget: MemoryBudget = None,
    disk_budget: DiskBudget = None,
    build_budget: BuildBudget = None,
    bucket_seconds: BucketSeconds = 5.0,
    min_gain: MinGain = 0.02,
    resamples: Resamples = 20,
    plot: Plot = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Choose the buckets that make traffic cheapest, as many as pay, and write them as a resource profile."""
    with errors(as_json, debug), progress() as on_progress:
        base = DEFAULTS if profile is None else load_profile(profile)
        read = histogram = read_traffic(traffic, column=column, tokenizer=tokenizer, split=split)
        if max_length is not None:
            histogram = cut_long(read, max_length, overlap_for(base, max_length))
        latency, bench = read_latency(cost)
        limits = Budget(buckets, build_seconds=build_budget, bucket_seconds=bucket_seconds)
        limits = _with_sizes(limits, bench, memory_budget, disk_budget, batch)
        model = CostModel(latency, padding, batch)
        made = plan_buckets(
            histogram, model, limits, max_length=max_length, min_gain=min_gain, resamples=resamples,
            on_progress=on_progress,
        )  # fmt: skip
        write_profile(planned_profile(made, output.stem, base, read), output)
        if plot is not None:
            from ctx_export.plan_plot import write_plot

            write_plot(made, plot)
    if as_json:
        print_json({"profile": str(output)} | made.to_json())
    else:
        stdout.print(_plan_tables(made, output, min_gain))


def _with_sizes(
    limits: Budget, bench: BenchReport | None, memory_budget: str | None, disk_budget: str | None, batch: int
) -> Budget:
    """`limits` with those of memory and disk, which need to know what a bundle takes."""
    if memory_budget is None and disk_budget is None:
        return limits
    if bench is None:
        raise InputError(
            "a budget of memory or disk needs to know what the bundle takes",
            hint="give --cost what ctx-export bench BUNDLE -o writes",
        )
    sizes, memory = bench.sizes, None
    if memory_budget is not None:
        memory = MemoryLimit(_bytes(memory_budget), sizes.weights_bytes, sizes.activation, batch)
    disk = None if disk_budget is None else _bytes(disk_budget)
    return replace(
        limits, memory=memory, disk_bytes=disk, shared_bytes=sizes.weights_bytes, bucket_bytes=sizes.bucket_bytes
    )


def _bytes(text: str) -> int:
    try:
        return int(str(parse_bytes(text)))
    except ValueError as error:
        raise InputError(str(error), hint="a size looks like '512 MiB'") from None


def _plan_tables(plan: Plan, output: Path, min_gain: float) -> Group:
    """The chosen buckets, what other numbers and kinds of buckets cost, and how sure the plan is."""
    lines = [
        f"{plan.padding_share():.1%} of the tokens that run are padding; no padding at all would cost "
        f"{plan.least_ms / plan.inputs:.3g} ms an input",
        _stopping(plan, min_gain),
    ]
    if (stability := plan.stability) is not None:
        lines.append(
            f"{stability.resamples} resamples: as many buckets in {stability.same_count:.0%}; this plan costs "
            f"{stability.regret_mean:.1%} more than their own best, at worst (p95) {stability.regret_p95:.1%}"
        )
    return Group(_bucket_table(plan, output), "", _cost_table(plan), "", *lines)


def _bucket_table(plan: Plan, output: Path) -> Table:
    table = plain_table(f"{plan.inputs:,} inputs -> {shown_path(output.absolute())}")
    for heading in ("bucket", "tokens", "tuned for", "inputs", "end in 9 of 10 resamples"):
        table.add_column(heading, justify="left" if heading == "bucket" else "right", no_wrap=True)
    for index, bucket in enumerate(plan.buckets()):
        low, high = plan.stability.ends[index] if plan.stability else ("", "")
        table.add_row(
            f"ctx-{bucket.max_length}", f"{bucket.min_length}..{bucket.max_length}", str(bucket.opt_length),
            f"{bucket.share:.1%}", f"{low}..{high}" if plan.stability else "-",
        )  # fmt: skip
    return table


def _cost_table(plan: Plan) -> Table:
    table = plain_table("ms an input, by the number of buckets")
    table.add_column("buckets", justify="right")
    for heading in ("planned", "best powers of two", "fixed steps", "one more saves"):
        table.add_column(heading, justify="right", no_wrap=True)
    for count, chosen in enumerate(plan.curve, 1):
        gain = plan.gain(count)
        powers = plan.powers_of_two[min(count, len(plan.powers_of_two)) - 1]
        table.add_row(
            f"{count} <" if count == plan.count else f"{count}  ",
            *(f"{way.total_ms / plan.inputs:.3g}" for way in (chosen, powers, plan.fixed_steps[count - 1])),
            "-" if gain is None else f"{gain:.1%}",
            style="bold" if count == plan.count else None,
        )
    return table


def _stopping(plan: Plan, min_gain: float) -> str:
    gain = plan.gain(plan.count)
    if gain is None:
        return "there are no more lengths to tell apart"
    bought = f"bucket {plan.count + 1} would save {gain:.1%}"
    if plan.count == len(plan.curve) - 1 and gain >= min_gain:
        return f"{bought}: the budget, not the cost, ends here"
    return f"{bought}; more are recommended while each saves {min_gain:.1%} of the cost on average"
