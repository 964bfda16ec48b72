"""`ctx-export triton`: a bundle for Triton Inference Server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group
from rich.markup import escape

from ctx_export.console import BundlePath, Debug, Json, errors, print_json, stdout
from ctx_export.tables import human_bytes, plain_table, shown_path
from ctx_runtime.bundle import Bundle

if TYPE_CHECKING:
    from ctx_export.triton_repository import TritonRepository

EPILOG = (
    "Example: [bold]ctx-export triton minilm.bundle -o models[/], then [bold]tritonserver --model-repository models[/]"
)

Output = Annotated[
    Path, typer.Option("-o", "--output", help="The model repository's folder; an earlier one is replaced.")
]


def triton(bundle: BundlePath, output: Output, as_json: Json = False, debug: Debug = False) -> None:
    """Write a Triton model repository: a router that takes any length, and the bundle's graphs and engines."""
    with errors(as_json, debug):
        from ctx_export.triton_repository import write_repository

        repository = write_repository(Bundle.open(bundle), output)
    if as_json:
        print_json(repository.to_json())
    else:
        stdout.print(_table(repository))


def _table(repository: TritonRepository) -> Group:
    """A row for each model, then where the repository is and what it takes."""
    table = plain_table()
    table.add_column("model", no_wrap=True)
    table.add_column("backend", no_wrap=True)
    table.add_column("serves", overflow="fold")
    for model in repository.models:
        table.add_row(model.name, model.backend, model.serves)
    weights = "one copy of the weights for all graphs" if repository.linked else "a copy of the weights for each graph"
    lines = [f"{shown_path(repository.root)}: {human_bytes(repository.disk_bytes)}, the router's bundle and {weights}"]
    lines += [f"[yellow]{escape(file)} is left out: {reason}[/]" for file, reason in repository.left_out.items()]
    return Group(table, "", *lines)
