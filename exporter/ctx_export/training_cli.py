"""`ctx-export train`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from ctx_export.console import Debug, Json, errors, print_json, read_lengths, stderr, stdout

if TYPE_CHECKING:
    from ctx_models.evaluation import QualityTable
    from ctx_models.training import Event, OnEvent, TrainingConfig

Start = Annotated[str, typer.Argument(help="Hugging Face folder or cached id (BERT family), or a checkpoint of train.")]
Task = Annotated[str, typer.Option(help="token-classification, text-classification, feature-extraction (retrieval).")]
TrainFile = Annotated[Path, typer.Option("--train", help="CoNLL columns, or JSONL; learned from.")]
ValidFile = Annotated[Path | None, typer.Option("--valid", help="As --train; measured after each epoch.")]
Output = Annotated[Path, typer.Option("-o", "--output", help="The checkpoint's folder; an old one is replaced.")]
Epochs = Annotated[int, typer.Option(help="Passes over the examples.")]
Lr = Annotated[float, typer.Option(help="The highest learning rate.")]
BatchTokens = Annotated[int, typer.Option(help="Tokens of a batch, padding included.")]
Seed = Annotated[int, typer.Option(help="Of the head's weights, dropout, and the order of batches.")]
Precision = Annotated[str, typer.Option(help="fp32 or bf16 (autocast).")]
Method = Annotated[str, typer.Option(help="full, or low-rank adapters: lora, adalora.")]
Parts = Annotated[
    list[str] | None,
    typer.Option("--subnetwork", help="A part to train and measure beside the whole, as l3-h6-f768; may be repeated."),
]
Smallest = Annotated[
    str | None, typer.Option("--sandwich", help="The smallest part: it, and all between it and the whole, are trained.")
]
Distill = Annotated[float, typer.Option(help="The share of the whole network's answers in the loss of a part.")]
CheckpointEvery = Annotated[int, typer.Option(help="Steps between two snapshots that --resume goes on from.")]
ByLength = Annotated[str, typer.Option(help="The last lengths of the ranges that quality is measured in, in tokens.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the unfinished run of the same settings.")]
Logger = Annotated[str | None, typer.Option(help="tensorboard or wandb (offline), into OUTPUT.logs.")]


def train(
    model: Start,
    task: Task,
    train_file: TrainFile,
    output: Output,
    valid_file: ValidFile = None,
    epochs: Epochs = 3,
    lr: Lr = 2e-4,
    batch_tokens: BatchTokens = 1024,
    seed: Seed = 0,
    precision: Precision = "fp32",
    method: Method = "full",
    subnetwork: Parts = None,
    sandwich: Smallest = None,
    distill: Distill = 0.5,
    checkpoint_every: CheckpointEvery = 500,
    by_length: ByLength = "16,32,64,128",
    resume: Resume = False,
    logger: Logger = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Fine-tune MODEL on labelled text, measure it by length after each epoch, and save a checkpoint for build."""
    with errors(as_json, debug), contextlib.ExitStack() as stack:
        from ctx_export.training_job import TrainingJob, run_training
        from ctx_models.subnetwork import SubNetwork
        from ctx_models.training import TrainingConfig

        steps: dict[str, Any] = {"epochs": epochs, "lr": lr, "batch_tokens": batch_tokens, "seed": seed}
        how: dict[str, Any] = {"precision": precision, "method": method, "checkpoint_every": checkpoint_every}
        parts = tuple(SubNetwork.parse(part) for part in subnetwork or ())
        config = TrainingConfig(**steps, **how, sandwich=parts, distill=distill)
        smallest = SubNetwork.parse(sandwich) if sandwich else None
        lengths = read_lengths(by_length, "--by-length")
        job = TrainingJob(model, cast(Any, task), train_file, valid_file, output, config, smallest, lengths, resume)
        log = stack.enter_context(_log(logger, output, config))
        display = stack.enter_context(_display(epochs, stderr if as_json else stdout))
        report = run_training(job, on_event=_both(log, display.on_event), on_quality=display.on_quality)
    if as_json:
        print_json(report.to_json())
    else:
        cut = f", {report.cut} of them cut to the longest that it takes" if report.cut else ""
        size = f"{report.parameters / 1e6:.1f}M parameters, {len(report.labels)} labels"
        stdout.print(f"{output}: {size}, learned from {report.examples} examples{cut}", soft_wrap=True)


@dataclass(eq=False)
class _Display:
    """A progress bar on a terminal, and after each epoch a table of the quality by length."""

    bar: Progress
    console: Console
    epochs: int
    task: TaskID
    started: float = field(default_factory=time.perf_counter)
    tokens: int = 0
    table: QualityTable | None = None

    def on_event(self, event: Event) -> None:
        """Move the bar on, or print the table of an epoch."""
        from ctx_models.training import EpochDone, StepDone

        if isinstance(event, StepDone):
            self.tokens += event.tokens
            rate = self.tokens / (time.perf_counter() - self.started)
            shown = f"epoch {event.epoch}/{self.epochs}  loss {event.loss:.3f}  {rate:.0f} tokens/s"
            self.bar.update(self.task, completed=event.step, total=event.steps, description=shown)
        elif isinstance(event, EpochDone):
            from ctx_export.tables import quality_table

            title = f"epoch {event.epoch}/{self.epochs}: mean loss {event.loss:.4f}"
            self.console.print(quality_table(self.table, title=title) if self.table else title)
        else:
            self.console.print(f"resumed after step {event.step} of {event.steps}")

    def on_quality(self, table: QualityTable) -> None:
        """Keep it for the end of the epoch."""
        self.table = table


@contextlib.contextmanager
def _display(epochs: int, console: Console) -> Iterator[_Display]:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=stderr, disable=not stderr.is_terminal) as bar:
        yield _Display(bar, console, epochs, bar.add_task("starting", total=None))


def _log(logger: str | None, output: Path, config: TrainingConfig) -> contextlib.AbstractContextManager[OnEvent]:
    """A function that passes events to the logger that was asked for; without one it does nothing."""
    from ctx_models.training import log_to

    if logger is None:
        return contextlib.nullcontext(lambda event: None)
    return log_to(cast(Any, logger), output.with_name(f"{output.name}.logs"), config)


def _both(first: OnEvent, second: OnEvent) -> OnEvent:
    def on_event(event: Event) -> None:
        first(event)
        second(event)

    return on_event
