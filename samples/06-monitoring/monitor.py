"""Long reports in segments that see each other: what happened, wherever in the report it stands.

A model of our own, from nothing: it reads windows of 64 tokens, and its fusion joins what they say.

Usage: python monitor.py [--output FOLDER] [--reports 150] [--epochs 4]
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from reports import EVENTS, QUIET, Report, make_reports
from rich.console import Console
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from ctx_export.pipeline import build
from ctx_export.tables import build_table, plain_table, quality_table
from ctx_export.training_job import TrainingJob, run_training
from ctx_models.checkpoint import save_model
from ctx_models.config import AdaptiveConfig, SegmentConfig
from ctx_models.errors import ModelError
from ctx_models.heads import TaskModel
from ctx_models.training import TrainingConfig
from ctx_runtime import CtxError, Runtime
from ctx_runtime.resource_profile import ResourceProfile

WINDOW = 64
"""Tokens of a segment."""
LEARNED, WATCHED = (3, 6, 12), (3, 8, 16, 32)
"""Sentences of the reports that are learned from, and of those that are watched: of one to eight segments."""
PROFILE = ResourceProfile.model_validate({"name": "monitor", "buckets": [{"max_length": 32}, {"max_length": WINDOW}]})


def main() -> None:
    """Make reports, train on some, build, and watch the others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("monitor"), help="where all files go")
    parser.add_argument("--reports", type=int, default=150, help="of each length to learn from (default 150)")
    parser.add_argument("--epochs", type=int, default=4)
    options = parser.parse_args()
    console = Console(highlight=False)
    options.output.mkdir(parents=True, exist_ok=True)

    learned = make_reports(options.reports, LEARNED, seed=0)
    watched = make_reports(20, WATCHED, seed=1)
    start = new_model(options.output, learned)
    job = TrainingJob(
        model=str(start),
        task="text-classification",
        train=write(options.output / "train.jsonl", learned),
        valid=write(options.output / "valid.jsonl", watched),
        output=options.output / "checkpoint",
        config=TrainingConfig(epochs=options.epochs, lr=2e-3, batch_tokens=512),
        length_edges=(WINDOW, 2 * WINDOW, 4 * WINDOW),
    )
    trained = run_training(job)
    if trained.quality:
        console.print(quality_table(trained.quality, title="held-out reports, by length"))
    report = build(job.output, PROFILE, options.output / "monitor.bundle")
    console.print(build_table(report))
    with Runtime.open(report.bundle) as runtime:
        watch(console, runtime, trained.labels, watched)


def new_model(folder: Path, reports: Sequence[Report]) -> Path:
    """An untrained model with segments, and a tokenizer of the words of `reports`."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer.train_from_iterator(
        (report.text for report in reports), trainers.WordLevelTrainer(special_tokens=special)
    )
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(folder / "tokenizer.json"))
    config = AdaptiveConfig(
        "encoder", tokenizer.get_vocab_size(), hidden_size=64, num_layers=2, num_heads=4, head_size=16, ffn_size=128,
        max_length=WINDOW, segment=SegmentConfig(length=WINDOW, overlap=8, summaries=2, band=1, prefix=1, suffix=1),
    )  # fmt: skip
    torch.manual_seed(0)
    model = TaskModel(config, "text-classification", sorted((QUIET, *EVENTS)))
    save_model(model, folder / "start", tokenizer=folder / "tokenizer.json")
    return folder / "start"


def write(file: Path, reports: Sequence[Report]) -> Path:
    """Reports as `ctx-export train` takes them."""
    rows = [{"text": report.text, "label": report.label} for report in reports]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def watch(console: Console, runtime: Runtime, labels: Sequence[str], reports: Sequence[Report]) -> None:
    """How often the bundle is right about whole reports, and about their beginnings alone, by number of segments."""
    whole = runtime.run_text([report.text for report in reports])
    tokenizer = Tokenizer.from_file(str(runtime.bundle.path("tokenizer/tokenizer.json")))
    tokenizer.enable_truncation(WINDOW)
    cut = runtime.run([{"input_ids": tokenizer.encode(report.text).ids} for report in reports])
    rows: dict[int, list[tuple[int, bool, bool]]] = {}
    for report, fused, first in zip(reports, whole, cut, strict=True):
        right = [labels[result.outputs["logits"].argmax()] == report.label for result in (fused, first)]
        rows.setdefault(fused.dispatch[0].segments, []).append((fused.dispatch[0].length, right[0], right[1]))
    console.print("\nheld-out reports through the bundle")
    table = plain_table()
    for heading in ("segments", "tokens", "reports", "right", f"right, first {WINDOW} tokens alone"):
        table.add_column(heading, justify="right")
    for segments, found in sorted(rows.items()):
        lengths, fused_right, cut_right = zip(*found, strict=True)
        shares = (f"{sum(right) / len(found):.2f}" for right in (fused_right, cut_right))
        table.add_row(str(segments), f"{min(lengths)}..{max(lengths)}", str(len(found)), *shares)
    console.print(table)


if __name__ == "__main__":
    try:
        main()
    except (CtxError, ModelError) as error:
        sys.exit(f"error: {error}" + (f"\nhint: {error.hint}" if error.hint else ""))
