"""Recommendations from long reviews: who liked this may like what is near, though the point comes late in the text.

A review longer than every bucket runs in segments whose embeddings are fused.

Usage: python recommend.py MODEL [--items FILE] [--output FOLDER] [--epochs 8] [--lr 3e-4]
"""

import argparse
import itertools
import json
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from tokenizers import Tokenizer

from ctx_export.pipeline import build
from ctx_export.tables import build_table, plain_table, quality_table
from ctx_export.training_job import TrainingJob, run_training
from ctx_models.errors import ModelError
from ctx_models.training import TrainingConfig
from ctx_runtime import CtxError, Result, Runtime
from ctx_runtime.resource_profile import ResourceProfile

ITEMS = Path(__file__).parent / "items.json"
PROFILE = ResourceProfile.model_validate(
    {"name": "reviews", "buckets": [{"max_length": 24}, {"max_length": 96}], "overflow": {"overlap": 16}}
)
STORIES = (0, 4, 8, 12)
"""Sentences that a review has before it comes to the point."""
REMARKS = 2
"""Remarks in a review."""
CHATTER = (
    "I ordered it on a Tuesday and the parcel came a day later than promised.",
    "My sister had told me about it at a birthday, between cake and coffee.",
    "The box was a little dented, but what was inside was wrapped in paper.",
    "At first I did not want to write anything, I never do.",
    "The price is what one has to expect these days.",
    "My husband thought that we did not need another thing in the house.",
    "The instructions come in nine languages, and mine is the last of them.",
    "I compared four shops for two evenings before I made up my mind.",
    "By the way, the friendly man from the post office sends his regards.",
    "The colour is the one from the picture, which is not always so.",
    "The one that I had before was from another maker and lasted for years.",
    "I have now had it since spring, so I can say something about it.",
)
OTHER_CHATTER = (
    "We moved in the middle of the winter, so everything took longer.",
    "My neighbour, a retired teacher, reads every review before buying and sent me here.",
    "The shop answered my letter within a day, which I find worth a mention.",
    "Normally I give three stars, because nothing is perfect.",
    "The children wanted to unpack it at once, and so they did.",
    "There was a voucher in the box that I will never use.",
    "Last year I sent two such things back, and this time I was sceptical too.",
    "I write this on the balcony, the cat asleep on my lap.",
)
"""Of the reviews that nothing is learned from."""


@dataclass(frozen=True)
class Item:
    """Something to recommend.

    Attributes:
        name: what it is called.
        group: what kind of thing it is.
        wishes: what people ask for who want it.
        remarks: what people say about it.
    """

    name: str
    group: str
    wishes: tuple[str, ...]
    remarks: tuple[str, ...]


def main() -> None:
    """Train, build, index what is known of the items, and recommend."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a folder of the BERT family, such as all-MiniLM-L6-v2")
    parser.add_argument("--items", type=Path, default=ITEMS, help="items with their group, wishes and remarks")
    parser.add_argument("--output", type=Path, default=Path("reviews"), help="where all files go")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--lr", type=float, default=3e-4, help="the highest learning rate (default 3e-4)")
    options = parser.parse_args()
    console, items = Console(highlight=False), read_items(options.items)
    options.output.mkdir(parents=True, exist_ok=True)

    fine_tune(console, options, items)
    report = build(options.output / "checkpoint", PROFILE, options.output / "reviews.bundle")
    console.print(build_table(report))
    with Runtime.open(report.bundle) as runtime:
        index = embeddings(runtime.run_text([" ".join(item.remarks) for item in items]))
        measure(console, runtime, index, items)
        recommend(console, runtime, index, items)


def read_items(file: Path) -> list[Item]:
    """The items of a JSON file."""
    found = json.loads(file.read_text(encoding="utf-8"))
    return [Item(name, one["group"], tuple(one["wishes"]), tuple(one["remarks"])) for name, one in found.items()]


def review(item: Item, chatter: Sequence[str], story: int, chance: random.Random) -> str:
    """A review that tells a story of as many sentences first, and then comes to the point."""
    return " ".join([*chance.choices(chatter, k=story), *chance.sample(item.remarks, REMARKS)])


def fine_tune(console: Console, options: argparse.Namespace, items: Sequence[Item]) -> None:
    """Learn which review answers a wish, and what the writer of a review also liked: another item of its group.

    The table shows where the own review of a held-out wish stands among all.
    """
    chance = random.Random(0)  # noqa: S311 (no secret)
    learned = [
        {"query": item.wishes[0], "positive": review(item, CHATTER, story, chance)}
        for story in (0, 2, 4, 6, 8)
        for item in items
    ]
    learned += [
        {"query": review(item, CHATTER, story, chance), "positive": review(other, CHATTER, story, chance)}
        for story in (0, 4)
        for item, other in itertools.permutations(items, 2)
        if item.group == other.group
    ]
    held_out = [
        {"query": item.wishes[1], "positive": review(item, OTHER_CHATTER, story, chance)}
        for story in (0, 4)
        for item in items
    ]
    job = TrainingJob(
        model=options.model,
        task="feature-extraction",
        train=write(options.output / "train.jsonl", learned),
        valid=write(options.output / "valid.jsonl", held_out),
        output=options.output / "checkpoint",
        config=TrainingConfig(epochs=options.epochs, lr=options.lr, batch_tokens=2048),
        length_edges=(32, 128),
    )
    report = run_training(job)
    if report.quality:
        console.print(quality_table(report.quality, title="held-out wishes and reviews"))


def write(file: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    """Pairs as `ctx-export train` takes them."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def embeddings(results: Sequence[Result]) -> np.ndarray:
    """Embeddings of length 1, `(texts, hidden)`; those of segments were averaged."""
    rows = np.stack([result.outputs["sentence_embedding"] for result in results])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def measure(console: Console, runtime: Runtime, index: np.ndarray, items: Sequence[Item]) -> None:
    """How often a held-out review finds its own item, and how often the next item is of the same group."""
    chance = random.Random(1)  # noqa: S311 (no secret)
    tokenizer = Tokenizer.from_file(str(runtime.bundle.path("tokenizer/tokenizer.json")))
    tokenizer.no_padding()
    tokenizer.enable_truncation(PROFILE.buckets[-1].max_length)
    console.print("\nheld-out reviews through the bundle: the whole review, and its beginning alone")
    table = plain_table()
    for heading in ("tokens", "segments", "own item first", "beginning alone", "next of its group", "beginning alone"):
        table.add_column(heading, justify="right")
    for story in STORIES:
        texts = [review(item, OTHER_CHATTER, story, chance) for item in items]
        whole = runtime.run_text(texts)
        beginnings = runtime.run([{"input_ids": tokenizer.encode(text).ids} for text in texts])
        runs = [result.dispatch[0] for result in whole]
        figures = [score(embeddings(results) @ index.T, items) for results in (whole, beginnings)]
        shares = [f"{figures[which][kind]:.2f}" for kind in (0, 1) for which in (0, 1)]
        tokens = f"{min(run.length for run in runs)}..{max(run.length for run in runs)}"
        table.add_row(tokens, str(max(run.segments for run in runs)), *shares)
    console.print(table)


def score(similarities: np.ndarray, items: Sequence[Item]) -> tuple[float, float]:
    """Of similarities `(reviews, items)`: shares whose own item is first, and whose nearest other is of its group."""
    own = np.arange(len(items))
    first = similarities.argmax(axis=1) == own
    others = similarities.copy()
    others[own, own] = -np.inf
    groups = [item.group for item in items]
    nearest = [groups[place] == groups[best] for place, best in enumerate(others.argmax(axis=1))]
    return float(first.mean()), float(np.mean(nearest))


def recommend(console: Console, runtime: Runtime, index: np.ndarray, items: Sequence[Item]) -> None:
    """For the writers of some long reviews: what else is near, and how the review ran."""
    chance = random.Random(2)  # noqa: S311 (no secret)
    for place in range(0, len(items), 4):
        text = review(items[place], OTHER_CHATTER, STORIES[-1], chance)
        results = runtime.run_text([text])
        nearest = [other for other in np.argsort(-(embeddings(results) @ index.T)[0]) if other != place]
        names = ", ".join(items[other].name for other in nearest[:2])
        console.print(f"who reviewed {items[place].name} may like {names} ({results[0].dispatch[0].reason})")


if __name__ == "__main__":
    try:
        main()
    except (CtxError, ModelError) as error:
        sys.exit(f"error: {error}" + (f"\nhint: {error.hint}" if error.hint else ""))
