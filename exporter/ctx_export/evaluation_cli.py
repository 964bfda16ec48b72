"""`ctx-export evaluate`."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from ctx_export.console import Debug, Json, errors, print_json, progress, read_lengths, stdout
from ctx_runtime.errors import InputError

if TYPE_CHECKING:
    from ctx_export.evaluation_job import EvaluationReport
    from ctx_export.language_job import LanguageReport
    from ctx_models.evaluation import OnProgress
    from ctx_models.retrieval import RetrievalTask, TaskName

_TASKS = ("passkey", "multi-key", "variable-tracking")
_PERPLEXITY = "perplexity"
_LENGTHS = (128, 256, 512, 1024)

CheckpointPath = Annotated[
    Path, typer.Argument(help="The folder that train wrote; or a causal language model: its bundle or folder.")
]
Data = Annotated[Path | None, typer.Option(help="CoNLL columns or JSONL to measure on; a text for perplexity.")]
Task = Annotated[
    str | None,
    typer.Option(
        help=f"A retrieval task instead of data: {', '.join(_TASKS)}; of a language model also {_PERPLEXITY}."
    ),
]
ByLength = Annotated[str, typer.Option(help="The last lengths of the ranges that data is measured in, in tokens.")]
Against = Annotated[
    Path | None, typer.Option(help="Another language model: how often both find the same token likely.")
]
Lengths = Annotated[
    str | None, typer.Option(help="Lengths of documents, in tokens; by default 128 to 1024, of a bundle its buckets'.")
]
Count = Annotated[int | None, typer.Option(help="Documents of each length; 100, of a language model 4.", min=1)]
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


@dataclass(frozen=True)
class _Asked:
    """What is measured, of a checkpoint or of a language model."""

    data: Path | None
    task: str | None
    lengths: tuple[int, ...] | None
    count: int | None
    keys: int | None
    hops: int | None
    seed: int
    bar: float

    @property
    def retrieval(self) -> RetrievalTask:
        """The retrieval task of that name."""
        from ctx_models.retrieval import RetrievalTask

        if self.task not in _TASKS:
            raise InputError(f"there is no retrieval task {self.task!r}", hint=f"the tasks are {', '.join(_TASKS)}")
        return RetrievalTask.named(cast("TaskName", self.task), keys=self.keys, hops=self.hops)


def evaluate(
    checkpoint: CheckpointPath,
    data: Data = None,
    task: Task = None,
    by_length: ByLength = "16,32,64,128,256,512",
    against: Against = None,
    lengths: Lengths = None,
    count: Count = None,
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
    """Measure CHECKPOINT by length and by sub-network, on labelled data, a text, or a retrieval task."""
    with errors(as_json, debug), progress() as on_progress:
        from ctx_models.checkpoint import is_checkpoint

        sizes = None if lengths is None else read_lengths(lengths, "--lengths")
        asked = _Asked(data, task, sizes, count, keys, hops, seed, bar)
        tell = functools.partial(on_progress, "evaluate")
        if is_checkpoint(checkpoint):
            edges = read_lengths(by_length, "--by-length")
            trained = _measure_checkpoint(checkpoint, asked, edges, subnetwork or (), plot, save, tell)
            answer, show = trained.to_json(), functools.partial(_print, trained)
        else:
            if subnetwork or plot is not None or save:
                raise InputError("a language model has no --subnetwork, --plot or --save", hint="leave them out")
            language = _measure_language_model(checkpoint, asked, against, tell)
            answer, show = language.to_json(), functools.partial(_print_language, language)
    if as_json:
        print_json(answer)
    else:
        show()


def _measure_checkpoint(
    folder: Path,
    asked: _Asked,
    edges: tuple[int, ...],
    subnetwork: Sequence[str],
    plot: Path | None,
    save: bool,
    tell: OnProgress,
) -> EvaluationReport:
    from ctx_export.evaluation_job import RetrievalRun, evaluate_file, evaluate_retrieval, save_quality
    from ctx_models.checkpoint import load_model
    from ctx_models.subnetwork import SubNetwork

    if (asked.data is None) == (asked.task is None):
        raise InputError("expected either --data or --task", hint=f"--data FILE, or --task {_TASKS[0]}")
    task = None if asked.task is None else asked.retrieval
    loaded = load_model(folder)
    parts = tuple(dict.fromkeys([SubNetwork(), *map(SubNetwork.parse, subnetwork)]))
    if task is None and asked.data is not None:
        report = evaluate_file(loaded, asked.data, length_edges=edges, subnetworks=parts, on_progress=tell)
    elif task is not None:
        run = RetrievalRun(task, asked.lengths or _LENGTHS, asked.count or 100, asked.seed, asked.bar)
        report = evaluate_retrieval(loaded, run, subnetworks=parts, on_progress=tell)
    if plot is not None:
        from ctx_export.quality_plot import plot_quality

        plot_quality(report, plot)
    if save:
        save_quality(folder, loaded, report.quality)
    return report


def _measure_language_model(path: Path, asked: _Asked, against: Path | None, tell: OnProgress) -> LanguageReport:
    from ctx_export.language_job import evaluate_perplexity, evaluate_retrieval
    from ctx_export.language_models import open_language_model

    if (asked.task == _PERPLEXITY) != (asked.data is not None):
        raise InputError("a language model takes --task perplexity with --data TEXT, or a retrieval task")
    with open_language_model(path) as model:
        lengths, count = asked.lengths or model.lengths or _LENGTHS, asked.count or 4
        if asked.data is None:
            return evaluate_retrieval(
                model, str(asked.task), asked.retrieval, lengths=lengths, count=count, seed=asked.seed, bar=asked.bar,
                on_progress=tell,
            )  # fmt: skip
        if against is None:
            return evaluate_perplexity(model, asked.data, lengths=lengths, count=count, on_progress=tell)
        with open_language_model(against) as other:
            return evaluate_perplexity(model, asked.data, lengths=lengths, count=count, against=other, on_progress=tell)


def _print(report: EvaluationReport) -> None:
    from ctx_export.tables import quality_table

    stdout.print(quality_table(report.quality))
    if report.cut:
        stdout.print(f"{report.cut} examples are longer than the model takes, and lost their end")
    for part, length in report.effective.items():
        stdout.print(_effective(str(part), length, report.bar))


def _print_language(report: LanguageReport) -> None:
    from ctx_export.tables import language_table

    stdout.print(language_table(report))
    if report.bar is not None:
        stdout.print(_effective(report.model, report.effective, report.bar))


def _effective(what: str, length: int | None, bar: float | None) -> str:
    reached = f"{length} tokens" if length else "below the shortest length"
    return f"effective context length of {what}: {reached} (score above {bar:g})"
