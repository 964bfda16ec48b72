"""`ctx-export tune`."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from ctx_export.console import Debug, Json, errors, print_json, progress, read_lengths, stdout
from ctx_runtime.errors import InputError

if TYPE_CHECKING:
    from ctx_export.tuning_job import TuningReport

CheckpointPath = Annotated[Path, typer.Argument(help="The folder that train wrote.")]
Data = Annotated[Path, typer.Option(help="CoNLL columns or JSONL that quality is measured on.")]
Output = Annotated[Path, typer.Option("-o", "--output", help="The resource profile to write, a .yaml.")]
ByLength = Annotated[str, typer.Option(help="The last lengths of the buckets, in tokens.")]
Floor = Annotated[float, typer.Option(help="The least quality, as a share of the full network's.", min=0, max=1)]
Trials = Annotated[int, typer.Option(help="Sub-networks to try in each bucket.", min=1)]
Examples = Annotated[int, typer.Option(help="Examples of each bucket to try them on.", min=1)]
Seed = Annotated[int, typer.Option(help="Of the search and the examples.")]
Storage = Annotated[Path | None, typer.Option(help="SQLite file to go on from; by default OUTPUT.db.")]
Plot = Annotated[Path | None, typer.Option(help="Also draw quality against latency: a .png, .svg or .pdf.")]
Runtime = Annotated[str, typer.Option(help="What latency is measured in: onnxruntime or pytorch.")]
Save = Annotated[bool, typer.Option("--save", help="Keep the choice and its quality in the checkpoint.")]


def tune(
    checkpoint: CheckpointPath,
    data: Data,
    output: Output,
    by_length: ByLength = "16,32,64,128",
    floor: Floor = 0.97,
    trials: Trials = 30,
    examples: Examples = 200,
    seed: Seed = 0,
    storage: Storage = None,
    plot: Plot = None,
    runtime: Runtime = "onnxruntime",
    save: Save = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Find the fastest good sub-network for each length, and write the resource profile that runs them."""
    with errors(as_json, debug), progress() as on_progress:
        from ctx_export.tuning_job import LATENCY, TuningJob, run_tuning, save_tuning

        if runtime not in LATENCY:
            raise InputError(f"latency can't be measured in {runtime!r}", hint=f"--runtime {' or '.join(LATENCY)}")
        edges, kept = read_lengths(by_length, "--by-length"), storage or output.with_suffix(".db")
        job = TuningJob(checkpoint, data, edges, floor, trials, examples, seed, kept, output, cast(Any, runtime))
        report = run_tuning(job, on_trial=functools.partial(on_progress, "tune"))
        if plot is not None:
            from ctx_export.quality_plot import plot_trials

            plot_trials(report, plot)
        if save:
            save_tuning(checkpoint, report)
    if as_json:
        print_json(report.to_json())
    else:
        _print(report)


def _print(report: TuningReport) -> None:
    from ctx_export.tables import quality_table
    from ctx_export.tuning_job import LATENCY

    stdout.print(quality_table(report.quality))
    start = 1
    for length, part in report.policy.steps:
        stdout.print(f"{start}..{length} tokens: {part}")
        start = length + 1
    stdout.print(
        f"{report.job.output}: the fastest with at least {report.job.floor:g} of the full network's quality",
        soft_wrap=True,
    )
    stdout.print(
        f"latency: {LATENCY[report.job.runtime]}; {len(report.trials)} trials in {report.job.storage}", soft_wrap=True
    )
