"""Search paragraphs by meaning: embed each once, then compare every query with all of them.

Usage: python search.py BUNDLE QUERY... [--texts FOLDER] [--top N]
"""

import argparse
import shutil
import sys
import textwrap
from pathlib import Path

import numpy as np

from ctx_runtime import CtxError, Runtime

TEXTS = Path(__file__).parent.parent / "texts"


def main() -> None:
    """Embed the paragraphs, say which buckets they took, and answer each query."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", help="a bundle with a sentence embedding, such as `make demo` leaves")
    parser.add_argument("query", nargs="+")
    parser.add_argument("--texts", type=Path, default=TEXTS, help="a folder of .txt files")
    parser.add_argument("--top", type=int, default=2, help="paragraphs a query (default 2)")
    options = parser.parse_args()

    paragraphs = [
        (file.stem, " ".join(paragraph.split()))
        for file in sorted(options.texts.glob("*.txt"))
        for paragraph in file.read_text(encoding="utf-8").split("\n\n")
    ]
    with Runtime.open(options.bundle) as runtime:
        index = embed(runtime, [text for _, text in paragraphs])
        print(f"{len(paragraphs)} paragraphs: {buckets(runtime)}")
        for query, scores in zip(options.query, embed(runtime, options.query) @ index.T, strict=True):
            print(f"\n{query}")
            for best in np.argsort(-scores)[: options.top]:
                print(hit(scores[best], *paragraphs[best]))


def embed(runtime: Runtime, texts: list[str]) -> np.ndarray:
    """Embeddings of length 1, `(texts, hidden)`; the runtime batches texts of the same bucket."""
    rows = np.stack([result.outputs["sentence_embedding"] for result in runtime.run_text(texts)])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def buckets(runtime: Runtime) -> str:
    """How many texts ran in each bucket so far."""
    return ", ".join(f"{stats.rows} in {name}" for name, stats in runtime.stats().buckets.items())


def hit(score: float, source: str, text: str) -> str:
    """A line that fits the terminal."""
    line = f"{score:.2f} {source}: {text}"
    return "  " + textwrap.shorten(line, shutil.get_terminal_size().columns - 2, placeholder=" …")


if __name__ == "__main__":
    try:
        main()
    except CtxError as error:
        sys.exit(f"error: {error}" + (f"\nhint: {error.hint}" if error.hint else ""))
