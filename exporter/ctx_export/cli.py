"""`ctx-export`: its commands; they and `console` are the only modules of the build side that print or exit."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from ctx_export import __version__, bench_cli, capacity_cli, planning_cli, report_cli, triton_cli
from ctx_export.console import BundlePath, Debug, Json, errors, print_json, progress, stdout
from ctx_export.evaluation_cli import evaluate
from ctx_export.reports import parity_summary
from ctx_export.training_cli import train
from ctx_export.tuning_cli import tune
from ctx_runtime.bundle import Bundle

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Export a transformer per context-length bucket, and prove every bucket against PyTorch.",
)

Model = Annotated[
    str, typer.Argument(help="Hugging Face folder or cached id, or a .safetensors checkpoint with --factory.")
]
Task = Annotated[str | None, typer.Option(help="What the model does; by default what its configuration says.")]
Factory = Annotated[str | None, typer.Option(help="module:function that makes the module of a checkpoint.")]
AllowPickle = Annotated[bool, typer.Option(help="Load weights from pickles. They can run any code: trust the source.")]
Target = Annotated[
    list[str] | None,
    typer.Option("--target", help="rtx:sm86,sm89 or rtx:current, trt:current, trt:ampere+; may be given again."),
]


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    """Show the version when asked; every command has its own help."""
    if show:
        stdout.print(__version__)
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
    with errors(as_json, debug), progress() as on_progress:
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
        print_json(report.to_json())
    else:
        from ctx_export.tables import build_table

        stdout.print(build_table(report))


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
    with errors(as_json, debug), progress() as on_progress:
        if against is None:
            from ctx_runtime.golden import verify as verify_golden

            report = verify_golden(bundle)
        else:
            from ctx_export.pipeline import verify as verify_against

            report = verify_against(
                bundle, against, task=task, factory=factory, allow_pickle=allow_pickle, on_progress=on_progress
            )
    if as_json:
        print_json(parity_summary(report) | {"cases": [case.to_json() for case in report.cases]})
    else:
        from ctx_export.tables import parity_table

        stdout.print(parity_table(report))
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
    with errors(as_json, debug), progress() as on_progress:
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
        print_json({"engines": [engine.to_json(inspect=inspect) for engine in built]})
    else:
        from ctx_export.tables import engine_table

        stdout.print(engine_table(built, inspect=inspect))


@app.command(epilog="Example: [bold]ctx-export doctor --json[/]")
def doctor(as_json: Json = False, debug: Debug = False) -> None:
    """Say what this machine can build and run, and how to get what is missing."""
    with errors(as_json, debug):
        from ctx_export.doctor import diagnose

        diagnosis = diagnose()
    if as_json:
        print_json(dataclasses.asdict(diagnosis))
    else:
        from ctx_export.tables import doctor_table

        stdout.print(doctor_table(diagnosis))


app.command(epilog="Example: [bold]ctx-export train ./minilm --task token-classification --train train.txt -o ner[/]")(
    train
)


app.command(epilog=planning_cli.EPILOG)(planning_cli.plan)
app.command(epilog=capacity_cli.EPILOG)(capacity_cli.capacity)
app.command(epilog=bench_cli.EPILOG)(bench_cli.bench)
app.command(epilog=report_cli.EPILOG)(report_cli.report)
app.command(epilog=triton_cli.EPILOG)(triton_cli.triton)

app.command(epilog="Example: [bold]ctx-export evaluate ner --data valid.txt --by-length 16,32,64[/]")(evaluate)

app.command(epilog="Example: [bold]ctx-export tune ner --data valid.txt --by-length 16,32,64 -o ner.yaml[/]")(tune)


def run() -> None:
    """Run the command line."""
    app()
