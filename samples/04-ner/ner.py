"""From labelled sentences to a tagger on the device: fine-tune with a part, measure by length, build, tag.

Usage: python ner.py MODEL [--train FILE] [--valid FILE] [--output FOLDER] [--part l3] [--epochs 3]
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from seqeval.metrics import f1_score
from seqeval.metrics.sequence_labeling import get_entities
from tokenizers import Encoding, Tokenizer

from ctx_export.pipeline import build
from ctx_export.tables import build_table, plain_table, quality_table
from ctx_export.training_job import TrainingJob, run_training
from ctx_models.data import TaggedWords, read_examples
from ctx_models.errors import ModelError
from ctx_models.subnetwork import SubNetwork
from ctx_models.training import TrainingConfig
from ctx_runtime import CtxError, Dispatch, Runtime
from ctx_runtime.resource_profile import ResourceProfile

DATA = Path(__file__).parent.parent / "data"
SHORT, LONG = 24, 128
"""Tokens of the longest input of the part, and of the whole network."""
SENTENCES = (
    "Obama lands in London tonight",
    "My cousin Maria Keller left Google in Dublin last spring and now runs the London office of Microsoft , which she "
    "says is louder than anything that she knew in Ireland",
)


def main() -> None:
    """Train, build and tag."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a folder of the BERT family, such as all-MiniLM-L6-v2")
    parser.add_argument("--train", type=Path, default=DATA / "wnut17-train.conll", help="CoNLL columns to learn from")
    parser.add_argument("--valid", type=Path, default=DATA / "wnut17-valid.conll", help="CoNLL columns to measure on")
    parser.add_argument("--output", type=Path, default=Path("ner"), help="where the checkpoint and the bundle go")
    parser.add_argument("--part", default="l3", help="what runs for short inputs (default l3: the first three layers)")
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    console = Console(highlight=False)
    part = SubNetwork.parse(options.part)

    labels = fine_tune(console, options, part)
    report = build(options.output / "checkpoint", profile(part), options.output / "ner.bundle")
    console.print(build_table(report))
    with Runtime.open(report.bundle) as runtime:
        tokenizer = Tokenizer.from_file(str(report.bundle.path("tokenizer/tokenizer.json")))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        measure(console, runtime, tokenizer, labels, options.valid)
        show(console, runtime, tokenizer, labels)


def fine_tune(console: Console, options: argparse.Namespace, part: SubNetwork) -> tuple[str, ...]:
    """Train the whole network and its part; a table of quality by length after each epoch. The labels."""
    job = TrainingJob(
        model=options.model,
        task="token-classification",
        train=options.train,
        valid=options.valid,
        output=options.output / "checkpoint",
        config=TrainingConfig(epochs=options.epochs, sandwich=(part,)),
        length_edges=(16, SHORT, 32),
    )
    return run_training(job, on_quality=lambda table: console.print(quality_table(table))).labels


def profile(part: SubNetwork) -> ResourceProfile:
    """The part for short inputs, the whole network for longer ones."""
    buckets = [{"max_length": SHORT, "subnetwork": part.to_json()}, {"max_length": LONG}]
    return ResourceProfile.model_validate({"name": "ner", "buckets": buckets})


def tag(
    runtime: Runtime, tokenizer: Tokenizer, labels: Sequence[str], sentences: Sequence[Sequence[str]]
) -> list[tuple[list[str], Dispatch]]:
    """The tag of each word of each sentence, and how it ran; the runtime forms the batches."""
    encodings = [tokenizer.encode(list(words), is_pretokenized=True) for words in sentences]
    results = runtime.run([{"input_ids": np.array(encoding.ids)} for encoding in encodings])
    return [
        (word_tags(encoding, result.outputs["logits"].argmax(-1), labels, len(words)), result.dispatch[0])
        for words, encoding, result in zip(sentences, encodings, results, strict=True)
    ]


def word_tags(encoding: Encoding, classes: np.ndarray, labels: Sequence[str], words: int) -> list[str]:
    """The tag of a word is that of its first token; a word without tokens has `O`."""
    first: dict[int, str] = {}
    for token, word in enumerate(encoding.word_ids):
        if word is not None:
            first.setdefault(word, labels[classes[token]])
    return [first.get(word, "O") for word in range(words)]


def measure(console: Console, runtime: Runtime, tokenizer: Tokenizer, labels: Sequence[str], valid: Path) -> None:
    """F1 of the bundle on the held-out sentences, by bucket."""
    examples = [one for one in read_examples(valid, "token-classification") if isinstance(one, TaggedWords)]
    answers = tag(runtime, tokenizer, labels, [example.words for example in examples])
    console.print("\nheld-out sentences through the bundle")
    table = plain_table()
    for heading in ("bucket", "network", "sentences", "F1"):
        table.add_column(heading, justify="right" if heading in ("sentences", "F1") else "left")
    for bucket in runtime.bundle.manifest.buckets:
        own = [index for index, (_, dispatch) in enumerate(answers) if dispatch.bucket == bucket.name]
        truth = [list(examples[index].tags) for index in own]
        found = [answers[index][0] for index in own]
        table.add_row(bucket.name, bucket.network, str(len(own)), f"{f1_score(truth, found):.3f}" if own else "-")
    console.print(table)


def show(console: Console, runtime: Runtime, tokenizer: Tokenizer, labels: Sequence[str]) -> None:
    """The entities of some sentences, and how each ran."""
    sentences = [sentence.split() for sentence in SENTENCES]
    for words, (tags, dispatch) in zip(sentences, tag(runtime, tokenizer, labels, sentences), strict=True):
        entities = [f"{' '.join(words[start : end + 1])} ({kind})" for kind, start, end in get_entities(tags)]
        console.print(f"{dispatch.bucket}: {dispatch.reason}: {', '.join(entities) or 'nothing found'}")


if __name__ == "__main__":
    try:
        main()
    except (CtxError, ModelError) as error:
        sys.exit(f"error: {error}" + (f"\nhint: {error.hint}" if error.hint else ""))
