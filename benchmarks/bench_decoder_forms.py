"""What the two forms of decoder graphs cost on ONNX Runtime's CPU, by what a cache holds and what it can hold.

CPU time of one thread, interleaved, 10th percentile. Run it as: python benchmarks/bench_decoder_forms.py MODEL
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from measure import interleave, report

from ctx_export.decoding.describing import describe
from ctx_export.decoding.graph import Decoder, export_decoder
from ctx_export.decoding.grouped import lower_to_grouped
from ctx_export.decoding.precision import convert
from ctx_export.sources.causal import load_causal
from ctx_runtime.decoder import DecoderRecord, DecodingSettings
from ctx_runtime.generation.feeds import attention_feeds, grouped_feeds, in_order, slots_in_order

FORMS = ("attention", "gqa")
DECODE = ((128, 256), (128, 4096), (1000, 1024), (1000, 4096))
"""Tokens in the cache, and its capacity."""
PREFILL = (128, 512)


class Form:
    """One form of the graph in one session."""

    def __init__(self, path: Path, decoder: DecoderRecord) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        self.session, self.decoder = ort.InferenceSession(str(path), options), decoder

    def step(self, tokens: int, fill: int, capacity: int) -> Callable[[], None]:
        """Runs a step of `tokens` tokens after `fill` others, again and again; the cache is bound in place."""
        chunk, binding = in_order([np.arange(5, 5 + tokens).tolist()], [fill]), self.session.io_binding()
        if self.decoder.form == "attention":
            feeds = attention_feeds(chunk, slots_in_order(chunk, capacity), self.decoder.sliding_window)
        else:
            feeds = grouped_feeds(chunk)
        for name in {value.name for value in self.session.get_inputs()} & feeds.keys():
            binding.bind_cpu_input(name, feeds[name])
        shape = (1, self.decoder.kv_heads, capacity, self.decoder.head_size)
        for slot in self.decoder.slots:
            cache = ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32))
            binding.bind_ortvalue_input(f"past_{slot}", cache)
            binding.bind_ortvalue_output(f"present_{slot}", cache)
        binding.bind_output("logits")
        return lambda: self.session.run_with_iobinding(binding)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a folder that save_pretrained wrote")
    parser.add_argument("--precision", choices=("fp32", "int8", "int4"), default="fp32")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    exported = export_decoder(load_causal(arguments.model).model)
    cases: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        forms = {form: _open(exported, form, arguments.precision, Path(folder)) for form in FORMS}
        for tokens, fill, capacity in [(n, 0, n) for n in PREFILL] + [(1, *case) for case in DECODE]:
            steps = {name: form.step(tokens, fill, capacity) for name, form in forms.items()}
            seconds = interleave(steps, rounds=arguments.rounds, clock=time.thread_time)
            figures = {name: round(1e3 * float(np.percentile(values, 10)), 2) for name, values in seconds.items()}
            cases.append({"tokens": tokens, "in_cache": fill, "capacity": capacity, "milliseconds": figures})
    report(f"decoder_forms_{arguments.precision}", {"cases": cases})


def _open(exported: Decoder, form: str, precision: str, folder: Path) -> Form:
    graph = lower_to_grouped(exported) if form == "gqa" else exported.graph
    path = folder / f"{form}.onnx"
    # Both run the same products: blocks are ONNX Runtime's own, whatever the form of attention.
    ir.save(convert(graph, precision, form="gqa"), path, external_data=f"{form}.data")
    return Form(path, describe(exported.shape, DecodingSettings(), form=form))


if __name__ == "__main__":
    main()
