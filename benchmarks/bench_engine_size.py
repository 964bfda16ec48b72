"""One engine for four buckets on three architectures against the engine of one: its size, and what its build needs.

A randomly initialised BERT-base (110 million parameters, positions up to 2,048) is exported once; nothing runs.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from measure import report
from transformers import BertConfig, BertModel

from ctx_export.cache import BuildCache
from ctx_export.engines import BuiltEngine
from ctx_export.engines.job import build_engines
from ctx_export.graphs import export_graph
from ctx_export.sources import load_source
from ctx_runtime.bundle import Bundle

sys.path.append(str(Path(__file__).parents[1]))
from tests.fixtures.engines import write_bundle

ENDS = (128, 512, 1024, 2048)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        BertModel(BertConfig(max_position_embeddings=ENDS[-1])).eval().save_pretrained(folder / "bert")
        source = load_source(folder / "bert", task="feature-extraction")
        graph = export_graph(source, max_length=ENDS[-1])

        def engine(ends: tuple[int, ...], target: str) -> tuple[Bundle, BuiltEngine]:
            precisions = ("fp32",) * len(ends)
            path = folder / f"{len(ends)}.bundle"
            bundle = write_bundle(path, graph, source.inputs, source.outputs, ends=ends, precisions=precisions)
            cache = BuildCache(folder / "cache")
            return bundle, build_engines(bundle, targets=[target], out_dir=folder / "out", cache=cache)[0]

        bundle, one = engine(ENDS[-1:], "rtx:sm89")
        _, shared = engine(ENDS, "rtx:sm86,sm89,sm120")
        weights = (bundle.root / "graphs/weights.bin").stat().st_size
    report(
        "engine_size",
        {
            "goal": "size_ratio <= 1.15, peak_host_bytes <= 2.3 weights_bytes + 0.5 GB",
            "model": "BERT-base, random, fp32",
            "buckets": ENDS,
            "library": f"TensorRT-RTX {shared.record.library_version}, no GPU",
            "weights_bytes": weights,
            "peak_allowed_bytes": round(2.3 * weights + 0.5e9),
            "one bucket, one target": _figures(one),
            "four buckets, three targets": _figures(shared),
            "size_ratio": round(shared.outcome.bytes / one.outcome.bytes, 4),
        },
    )


def _figures(engine: BuiltEngine) -> dict[str, float]:
    outcome = engine.outcome
    return {
        "engine_bytes": outcome.bytes,
        "seconds": round(outcome.seconds, 1),
        "peak_host_bytes": outcome.peak_host_bytes,
    }


if __name__ == "__main__":
    main()
