"""`ctx-export`: the only place of the build side that prints or exits."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ctx_export import __version__
from ctx_export.reports import Progress as OnProgress
from ctx_export.reports import parity_summary
from ctx_runtime.bundle import Bundle
from ctx_runtime.errors import CtxError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Export a transformer per context-length bucket, and prove every bucket against PyTorch.",
)
_out = Console(soft_wrap=False)
_err = Console(stderr=True)

Model = Annotated[
    str, typer.Argument(help="Hugging Face folder or cached id, or a .safetensors checkpoint with --factory.")
]
BundlePath = Annotated[Path, typer.Argument(help="The bundle's folder.")]
Task = Annotated[str | None, typer.Option(help="What the model does; by default what its configuration says.")]
Factory = Annotated[str | None, typer.Option(help="module:function that makes the module of a checkpoint.")]
AllowPickle = Annotated[bool, typer.Option(help="Load weights from pickles. They can run any code: trust the source.")]
Target = Annotated[
    list[str] | None,
    typer.Option("--target", help="rtx:sm86,sm89 or rtx:current, trt:current, trt:ampere+; may be given again."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else, on stdout.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    """Show the version when asked; every command has its own help."""
    if show:
        _out.print(__version__)
        raise typer.Exit


@app.command(epilog="Example: [bold]ctx-export build ./minilm -p edge-cpu -o minilm.bundle[/]")
def build(
    model: Model,
    profile: Annotated[str, typer.Option("-p", "--profile", help="A resource profile's name or file.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the bundle goes; an old one is replaced.")],
    task: Task = None,
    name: Annotated[str | None, typer.Option(help="The bundle's name; by default the model's.")] = None,
    factory: Factory = None,
    allow_pickle: AllowPickle = False,
    target: Target = None,
    cache_dir: Annotated[Path | None, typer.Option(help="Where finished stages are kept.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Export MODEL once, specialise it for every bucket, prove it against PyTorch, and package it."""
    with _errors(as_json, debug), _progress() as on_progress:
        from ctx_export.pipeline import build as run_build

        report = run_build(
            model,
            profile,
            output,
            task=task,
            name=name,
            factory=factory,
            allow_pickle=allow_pickle,
            targets=target or (),
            cache_dir=cache_dir,
            on_progress=on_progress,
        )
    if as_json:
        _print_json(report.to_json())
    else:
        from ctx_export.tables import build_table

        _out.print(build_table(report))


@app.command(epilog="Example: [bold]ctx-export verify minilm.bundle --against ./minilm[/]")
def verify(
    bundle: BundlePath,
    against: Annotated[str | None, typer.Option(help="The PyTorch model; without it, the golden vectors.")] = None,
    task: Task = None,
    factory: Factory = None,
    allow_pickle: AllowPickle = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Prove a bundle again, from its golden vectors or against the PyTorch model it was made from."""
    with _errors(as_json, debug), _progress() as on_progress:
        if against is None:
            from ctx_runtime.golden import verify as verify_golden

            report = verify_golden(bundle)
        else:
            from ctx_export.pipeline import verify as verify_against

            report = verify_against(
                bundle, against, task=task, factory=factory, allow_pickle=allow_pickle, on_progress=on_progress
            )
    if as_json:
        _print_json(parity_summary(report) | {"cases": [case.to_json() for case in report.cases]})
    else:
        from ctx_export.tables import parity_table

        _out.print(parity_table(report))
    if not report.passed:
        raise typer.Exit(1)


@app.command(epilog="Example: [bold]ctx-export engines minilm.bundle --target rtx:sm86,sm89,sm120[/]")
def engines(
    bundle: BundlePath,
    target: Target = None,
    layout: Annotated[str, typer.Option(help="auto, shared or per-bucket.")] = "auto",
    strip: Annotated[bool, typer.Option("--strip", help="Leave the weights out; only on the device itself.")] = False,
    memory_limit: Annotated[str | None, typer.Option(help="Memory that a build may take, such as '4 GiB'.")] = None,
    cache_dir: Annotated[Path | None, typer.Option(help="Where finished engines are kept.")] = None,
    inspect: Annotated[
        bool, typer.Option("--inspect", help="Show layers too, and whether it fits this machine.")
    ] = False,
    epcontext: Annotated[
        Path | None, typer.Option(help="Also write an EPContext model for each TensorRT-RTX engine to this folder.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Build TensorRT engines for BUNDLE from its own graphs, or show those it has when no target is given."""
    with _errors(as_json, debug), _progress() as on_progress:
        from ctx_export.engine_job import add_engines, list_engines

        if target:
            built = add_engines(
                bundle,
                target,
                layout=layout,
                strip=strip,
                memory_limit=memory_limit,
                cache_dir=cache_dir,
                on_progress=on_progress,
            )
        else:
            built = list_engines(bundle)
        if epcontext is not None:
            from ctx_export.engines.epcontext import write_epcontext_models

            write_epcontext_models(Bundle.open(bundle), epcontext)
    if as_json:
        _print_json({"engines": [engine.to_json(inspect=inspect) for engine in built]})
    else:
        from ctx_export.tables import engine_table

        _out.print(engine_table(built, inspect=inspect))


@app.command(epilog="Example: [bold]ctx-export doctor --json[/]")
def doctor(as_json: Json = False, debug: Debug = False) -> None:
    """Say what this machine can build and run, and how to get what is missing."""
    with _errors(as_json, debug):
        from ctx_export.doctor import diagnose

        diagnosis = diagnose()
    if as_json:
        _print_json(dataclasses.asdict(diagnosis))
    else:
        from ctx_export.tables import doctor_table

        _out.print(doctor_table(diagnosis))


def run() -> None:
    """Run the command line."""
    app()


@contextlib.contextmanager
def _errors(as_json: bool, debug: bool) -> Iterator[None]:
    """Turn an error into one line that says what and one that says what to do, and its exit status."""
    try:
        yield
    except KeyboardInterrupt:
        _err.print("cancelled; nothing was changed", style="red")
        raise typer.Exit(130) from None
    except CtxError as error:
        if debug:
            raise
        _err.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        if error.hint:
            _err.print(f"hint: {error.hint}", markup=False, soft_wrap=True)
        if as_json:
            _print_json({"error": {"kind": type(error).__name__, "message": str(error), "hint": error.hint}})
        raise typer.Exit(error.exit_code) from None


@contextlib.contextmanager
def _progress() -> Iterator[OnProgress]:
    """A progress bar with a line a stage on a terminal; silence elsewhere."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=_err, disable=not _err.is_terminal) as bar:
        tasks: dict[str, int] = {}

        def on_progress(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done, total=total)  # type: ignore[arg-type]

        yield on_progress


def _print_json(value: object) -> None:
    json.dump(value, sys.stdout, indent=2, allow_nan=False)
    sys.stdout.write("\n")
