"""Embed every paragraph of a folder of texts with Ray Data, into Parquet files: one machine or many.

Usage: python embed.py BUNDLE OUTPUT [--texts FOLDER] [--workers N]
"""

import argparse
import sys
import time
from pathlib import Path

import ray

from ctx_runtime import CtxError
from ctx_runtime.ray.datasets import embed_dataset

TEXTS = Path(__file__).parent.parent / "texts"


def main() -> None:
    """Cut the texts into paragraphs, embed them in a pool of processes, and say what was written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="a bundle with an embedding, such as `make demo` leaves")
    parser.add_argument("output", type=Path, help="a folder for the Parquet files")
    parser.add_argument("--texts", type=Path, default=TEXTS, help="a folder of .txt files")
    parser.add_argument("--workers", type=int, default=1, help="processes with a runtime each (default 1)")
    options = parser.parse_args()

    paragraphs = [
        {"source": file.stem, "text": " ".join(paragraph.split())}
        for file in sorted(options.texts.glob("*.txt"))
        for paragraph in file.read_text(encoding="utf-8").split("\n\n")
    ]
    started = time.perf_counter()
    corpus = ray.data.from_items(paragraphs)
    embedded = embed_dataset(corpus, options.bundle, workers=options.workers, rows=512).materialize()
    embedded.write_parquet(str(options.output.absolute()))
    columns = ", ".join(embedded.schema().names)
    print(f"{embedded.count()} paragraphs in {time.perf_counter() - started:.0f} s: {columns} -> {options.output}")


if __name__ == "__main__":
    try:
        main()
    except CtxError as error:
        sys.exit(f"error: {error}" + (f"\nhint: {error.hint}" if error.hint else ""))
