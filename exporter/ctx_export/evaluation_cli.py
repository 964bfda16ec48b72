"""`ctx-export evaluate`."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from ctx_export.console import Debug, Json, errors, print_json, progress, read_lengths, stdout
from ctx_runtime.errors import InputError

if TYPE_CHECKING:
    from ctx_export.evaluation_job import EvaluationReport
    from ctx_models.retrieval import TaskName

_TASKS = ("passkey", "multi-key", "variable-tracking")

CheckpointPath = Annotated[Path, typer.Argument(help="The folder that train wrote.")]
Data = Annotated[Path | None, typer.Option(help="CoNLL columns or JSONL to measure on.")]
Task = Annotated[str | None, typer.Option(help=f"A retrieval task instead of data: {', '.join(_TASKS)}.")]
ByLength = Annotated[str, typer.Option(help="The last lengths of the ranges that data is measured in, in tokens.")]
Lengths = Annotated[str, typer.Option(help="Lengths of a retrieval task's documents, in tokens.")]
Count = Annotated[int, typer.Option(help="Documents of each length.", min=1)]
Keys = Annotated[int | None, typer.Option(help="Keys that are hidden; by default 1, 4 or 2 chains.")]
Hops = Annotated[int | None, typer.Option(help="Assignments from the value to the key that is asked for.")]
Seed = Annotated[int, typer.Option(help="Of the documents.")]
Bar = Annotated[float, typer.Option(help="The score above which a length is effective.", min=0, max=1)]
Parts = Annotated[
    list[str] | None,
    typer.Option("--subnetwork", help="A part to measure beside the whole, as l3-h6-f768; may be repeated."),
]
Plot = Annotated[Path | None, typer.Option(help="Also draw the quality by length: a .png, .svg or .pdf.")]
Save = Annotated[bool, typer.Option("--save", help="Keep the figures in the checkpoint: build takes them over.")]


def evaluate(
    checkpoint: CheckpointPath,
    data: Data = None,
    task: Task = None,
    by_length: ByLength = "16,32,64,128,256,512",
    lengths: Lengths = "128,256,512,1024",
    count: Count = 100,
    keys: Keys = None,
    hops: Hops = None,
    seed: Seed = 0,
    bar: Bar = 0.85,
    subnetwork: Parts = None,
    plot: Plot = None,
    save: Save = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure CHECKPOINT by length and by sub-network, on labelled data or on a retrieval task."""
    with errors(as_json, debug), progress() as on_progress:
        from ctx_export.evaluation_job import RetrievalRun, evaluate_file, evaluate_retrieval, save_quality
        from ctx_models.checkpoint import load_model
        from ctx_models.retrieval import RetrievalTask
        from ctx_models.subnetwork import SubNetwork

        _check_choice(data, task)
        loaded = load_model(checkpoint)
        parts = tuple(dict.fromkeys([SubNetwork(), *map(SubNetwork.parse, subnetwork or ())]))
        tell = functools.partial(on_progress, "evaluate")
        if data is not None:
            edges = read_lengths(by_length, "--by-length")
            report = evaluate_file(loaded, data, length_edges=edges, subnetworks=parts, on_progress=tell)
        else:
            named = RetrievalTask.named(cast("TaskName", task), keys=keys, hops=hops)
            run = RetrievalRun(named, read_lengths(lengths, "--lengths"), count, seed, bar)
            report = evaluate_retrieval(loaded, run, subnetworks=parts, on_progress=tell)
        if plot is not None:
            from ctx_export.quality_plot import plot_quality

            plot_quality(report, plot)
        if save:
            save_quality(checkpoint, loaded, report.quality)
    if as_json:
        print_json(report.to_json())
    else:
        _print(report)


def _check_choice(data: Path | None, task: str | None) -> None:
    if (data is None) == (task is None):
        raise InputError("expected either --data or --task", hint=f"--data FILE, or --task {_TASKS[0]}")
    if task is not None and task not in _TASKS:
        raise InputError(f"there is no retrieval task {task!r}", hint=f"the tasks are {', '.join(_TASKS)}")


def _print(report: EvaluationReport) -> None:
    from ctx_export.tables import quality_table

    stdout.print(quality_table(report.quality))
    if report.cut:
        stdout.print(f"{report.cut} examples are longer than the model takes, and lost their end")
    for part, length in report.effective.items():
        reached = f"{length} tokens" if length else "below the shortest length"
        stdout.print(f"effective context length of {part}: {reached} (score above {report.bar:g})")
