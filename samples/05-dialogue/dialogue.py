"""What a customer wants and how urgent it is, after each turn: the history grows, and with it the bucket.

Usage: python dialogue.py MODEL [--data FILE] [--output FOLDER] [--part l3] [--epochs 12]
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from ctx_export.pipeline import build
from ctx_export.tables import build_table, plain_table, quality_table
from ctx_export.training_job import TrainingJob, run_training
from ctx_models.errors import ModelError
from ctx_models.subnetwork import SubNetwork
from ctx_models.training import TrainingConfig
from ctx_runtime import CtxError, Dispatch, Runtime
from ctx_runtime.resource_profile import ResourceProfile

DATA = Path(__file__).parent.parent / "data" / "dialogues.jsonl"
HELD_OUT = 6
"""Conversations at the end of the file that nothing is learned from."""
SHORT, MIDDLE, LONG = 32, 64, 128
"""Tokens of the longest history of each bucket: the first runs the part, the others the whole network."""


@dataclass(frozen=True)
class History:
    """A conversation up to a customer's turn.

    Attributes:
        text: all turns, each with its speaker.
        label: intent and urgency at this point: `billing/urgent`.
        turns: how many there are.
    """

    text: str
    label: str
    turns: int


def main() -> None:
    """Train, build, and follow conversations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a folder of the BERT family, such as all-MiniLM-L6-v2")
    parser.add_argument("--data", type=Path, default=DATA, help="conversations, one JSON object a line")
    parser.add_argument("--output", type=Path, default=Path("dialogue"), help="where all files go")
    parser.add_argument("--part", default="l3", help="what runs for short histories (default l3)")
    parser.add_argument("--epochs", type=int, default=12)
    options = parser.parse_args()
    console, part = Console(highlight=False), SubNetwork.parse(options.part)

    conversations = [list(histories(line)) for line in options.data.read_text(encoding="utf-8").splitlines()]
    held_out = conversations[-HELD_OUT:]
    labels = fine_tune(console, options, part, conversations[:-HELD_OUT], held_out)
    report = build(options.output / "checkpoint", profile(part), options.output / "dialogue.bundle")
    console.print(build_table(report))
    with Runtime.open(report.bundle) as runtime:
        measure(console, runtime, labels, [history for conversation in held_out for history in conversation])
        for conversation in (held_out[0], held_out[2]):
            follow(console, runtime, labels, conversation)


def histories(line: str) -> Iterator[History]:
    """The history of a conversation after each turn of the customer."""
    said: list[str] = []
    for speaker, text, *label in json.loads(line)["turns"]:
        said.append(f"{speaker}: {text}")
        if label:
            yield History(" ".join(said), label[0], len(said))


def fine_tune(
    console: Console,
    options: argparse.Namespace,
    part: SubNetwork,
    learned: Sequence[Sequence[History]],
    held_out: Sequence[Sequence[History]],
) -> tuple[str, ...]:
    """Train the whole network and its part, and show the quality of the last epoch by length. The labels."""
    options.output.mkdir(parents=True, exist_ok=True)
    job = TrainingJob(
        model=options.model,
        task="text-classification",
        train=write(options.output / "train.jsonl", learned),
        valid=write(options.output / "valid.jsonl", held_out),
        output=options.output / "checkpoint",
        config=TrainingConfig(epochs=options.epochs, lr=5e-4, batch_tokens=256, sandwich=(part,)),
        length_edges=(SHORT, MIDDLE),
    )
    report = run_training(job)
    if report.quality:
        console.print(quality_table(report.quality, title=f"after {options.epochs} epochs"))
    return report.labels


def write(file: Path, conversations: Sequence[Sequence[History]]) -> Path:
    """Histories as `ctx-export train` takes them."""
    rows = [{"text": one.text, "label": one.label} for histories in conversations for one in histories]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def profile(part: SubNetwork) -> ResourceProfile:
    """The part for short histories, the whole network for longer ones."""
    buckets = [{"max_length": SHORT, "subnetwork": part.to_json()}, {"max_length": MIDDLE}, {"max_length": LONG}]
    return ResourceProfile.model_validate({"name": "dialogue", "buckets": buckets})


def classify(runtime: Runtime, labels: Sequence[str], texts: Sequence[str]) -> list[tuple[str, float, Dispatch]]:
    """The label of each text, its probability, and how it ran."""
    answers = []
    for result in runtime.run_text(texts):
        logits = result.outputs["logits"].astype(np.float64)
        probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        best = int(probabilities.argmax())
        answers.append((labels[best], float(probabilities[best]), result.dispatch[0]))
    return answers


def measure(console: Console, runtime: Runtime, labels: Sequence[str], held_out: Sequence[History]) -> None:
    """The share of right intents and urgencies of the bundle, by bucket."""
    answers = classify(runtime, labels, [history.text for history in held_out])
    console.print("\nheld-out histories through the bundle")
    table = plain_table()
    for heading in ("bucket", "network", "histories", "intent right", "urgency right"):
        table.add_column(heading, justify="left" if heading in ("bucket", "network") else "right")
    for bucket in runtime.bundle.manifest.buckets:
        pairs = [
            (history.label.split("/"), label.split("/"))
            for history, (label, _, dispatch) in zip(held_out, answers, strict=True)
            if dispatch.bucket == bucket.name
        ]
        right = [sum(truth[kind] == found[kind] for truth, found in pairs) for kind in (0, 1)]
        table.add_row(bucket.name, bucket.network, str(len(pairs)), *map(str, right))
    console.print(table)


def follow(console: Console, runtime: Runtime, labels: Sequence[str], conversation: Sequence[History]) -> None:
    """One conversation as it grows."""
    console.print(f"\n{conversation[0].text}")
    table = plain_table()
    for heading in ("turns", "tokens", "bucket", "intent", "urgency", "probability"):
        table.add_column(heading, justify="right" if heading in ("turns", "tokens", "probability") else "left")
    answers = classify(runtime, labels, [history.text for history in conversation])
    for history, (label, probability, dispatch) in zip(conversation, answers, strict=True):
        intent, urgency = label.split("/")
        table.add_row(str(history.turns), str(dispatch.length), dispatch.bucket, intent, urgency, f"{probability:.2f}")
    console.print(table)


if __name__ == "__main__":
    try:
        main()
    except (CtxError, ModelError) as error:
        sys.exit(f"error: {error}" + (f"\nhint: {error.hint}" if error.hint else ""))
