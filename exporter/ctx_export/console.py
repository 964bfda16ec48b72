"""What every command of `ctx-export` shares: its options, where it prints, how it fails and shows progress."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ctx_export.reports import Progress as OnProgress
from ctx_models.errors import ModelError
from ctx_runtime.errors import CtxError, InputError

BundlePath = Annotated[Path, typer.Argument(help="The bundle's folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else, on stdout.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]

stdout = Console(soft_wrap=False)
stderr = Console(stderr=True)


@contextlib.contextmanager
def errors(as_json: bool, debug: bool) -> Iterator[None]:
    """Turn an error into one line that says what and one that says what to do, and its exit status."""
    try:
        yield
    except KeyboardInterrupt:
        stderr.print("cancelled; nothing was changed", style="red")
        raise typer.Exit(130) from None
    except (CtxError, ModelError) as error:
        if debug:
            raise
        stderr.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        if error.hint:
            stderr.print(f"hint: {error.hint}", markup=False, soft_wrap=True)
        if as_json:
            print_json({"error": {"kind": type(error).__name__, "message": str(error), "hint": error.hint}})
        raise typer.Exit(error.exit_code if isinstance(error, CtxError) else CtxError.exit_code) from None


@contextlib.contextmanager
def progress() -> Iterator[OnProgress]:
    """A progress bar with a line a stage on a terminal; silence elsewhere."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=stderr, disable=not stderr.is_terminal) as bar:
        tasks: dict[str, int] = {}

        def on_progress(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done, total=total)  # type: ignore[arg-type]

        yield on_progress


def print_json(value: object) -> None:
    """Print `value` as the one JSON object of a command."""
    json.dump(value, sys.stdout, indent=2, allow_nan=False)
    sys.stdout.write("\n")


def read_lengths(text: str, option: str) -> tuple[int, ...]:
    """`16,32` as numbers; their order is checked where they are used.

    Raises:
        InputError: it is no such list.
    """
    try:
        return tuple(int(part) for part in text.split(",") if part)
    except ValueError:
        raise InputError(f"{option} takes numbers, not {text!r}", hint="for example 16,32,64") from None
