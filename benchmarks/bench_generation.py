"""Prefill and decoding of SmolLM2-135M-Instruct on a CPU, by the tokens before: our runtime and other engines.

Every engine is a process of its own with one thread, at equal precision: fp32, or int4 in the blocks that the engine
runs best. All get the same prompt, a count from some number on, and go on by the likeliest tokens; turns rotate.

Usage: python bench_generation.py [--precision fp32|int4] [--rounds N]; by default both precisions, one after the other
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import onnx_ir as ir
from engines import Answer, Engine, interpreter, turns
from measure import counting, report
from smollm2_models import PRECISIONS, contenders

from ctx_runtime import Bundle
from ctx_runtime.decoder import DecoderRecord

OURS, CONTROL = "ctx-export", "ctx-export again"
PREFILLS = {128: 5, 1024: 2, 4096: 1}
"""How often a prompt of so many tokens is read."""
STEPS = 8
"""Tokens of a turn of decoding."""
PACKAGES = {
    "ctx-export": ("onnxruntime",),
    "transformers": ("transformers", "torch"),
    "onnxruntime-genai": ("onnxruntime-genai", "onnxruntime"),
    "llama.cpp": ("xllamacpp",),
}
"""Of each engine, those that its figures depend on."""
GOAL = {"prefill_against_best": 1.0, "decode_against_best": 1.0}
Measured = dict[str, list[Answer]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=PRECISIONS, action="append")
    parser.add_argument("--rounds", type=int, default=6, help=f"of {STEPS} tokens each")
    options = parser.parse_args()
    for precision in options.precision or PRECISIONS:
        report(f"generation_{precision}", compare(precision, options.rounds))


def compare(precision: str, rounds: int) -> dict[str, object]:
    """The figures of one precision by the length of the prompt, and how fast memory would let a token be."""
    found, load, bandwidth = contenders(precision), os.getloadavg()[0], measured_bandwidth()
    bundle = Bundle.open(found[OURS].arguments[0])
    tokenizer = bundle.path("tokenizer/tokenizer.json")
    with ExitStack() as stack:
        engines = {
            name: stack.enter_context(Engine(environment(name), "decoder_engines.py", one.engine, *one.arguments))
            for name, one in found.items()
        }
        versions = {name: engines[name].ask("versions", packages=PACKAGES[one.engine]) for name, one in found.items()}
        engines[CONTROL] = engines[OURS]
        cases = [
            case(engines, tokenizer, context, rounds) | {"bound_ms": bound_ms(bundle, context, bandwidth)}
            for context in PREFILLS
        ]
    figures = {"engines": versions, "load": load, "rounds": rounds, "goal": GOAL}
    return figures | {"bandwidth_gb_s": round(bandwidth / 1e9, 2), "cases": cases}


def environment(name: str) -> str:
    return sys.executable if name == OURS else interpreter("peers")


def case(engines: Mapping[str, Engine], tokenizer: Path, context: int, rounds: int) -> dict[str, object]:
    """Every contender's prefill of `context` tokens, and its steps after that."""
    prefills: Measured = {name: [] for name in engines}
    steps: Measured = {name: [] for name in engines}
    for turn, name in turns(list(engines), PREFILLS[context]):
        prefills[name].append(engines[name].ask("prefill", talk=name, prompt=counting(tokenizer, context, turn)))
    for _, name in turns(list(engines), rounds):
        steps[name].append(engines[name].ask("decode", talk=name, steps=STEPS))
    figures = {
        name: rates(prefills[name], steps[name], context) | {"tokens_as_ours": agreed(steps, name)} for name in engines
    }
    peers = [figures[name] for name in figures if name not in (OURS, CONTROL)]
    return {
        "context": context,
        "prefill_against_best": against_best(figures[OURS], peers, "prefill_tokens_per_s"),
        "prefill_against_best_cpu": against_best(figures[OURS], peers, "prefill_tokens_per_cpu_s"),
        "decode_against_best": against_best(figures[OURS], peers, "decode_tokens_per_s"),
        "decode_against_best_cpu": against_best(figures[OURS], peers, "decode_tokens_per_cpu_s"),
        "contenders": figures,
    }


def against_best(ours: Mapping[str, float], peers: Sequence[Mapping[str, float]], rate: str) -> float:
    return round(ours[rate] / max(peer[rate] for peer in peers), 3)


def rates(prefills: Sequence[Answer], steps: Sequence[Answer], context: int) -> dict[str, float]:
    """Tokens per second of wall time and of CPU time: of the fastest reading, and of the median turn of steps."""
    figures = {}
    for clock, second in (("wall_s", "s"), ("cpu_s", "cpu_s")):
        token = float(np.median([answer[clock] for answer in steps])) / STEPS
        figures[f"prefill_tokens_per_{second}"] = round(context / min(answer[clock] for answer in prefills), 1)
        figures[f"decode_tokens_per_{second}"] = round(1 / token, 2)
    return figures | {"decode_ms": round(1e3 / figures["decode_tokens_per_s"], 2)}


def agreed(steps: Measured, name: str) -> int:
    """How many tokens are those of our runtime, before the first that is not."""
    ours, theirs = ([token for answer in steps[one] for token in answer["tokens"]] for one in (OURS, name))
    return next((at for at, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b), len(ours))


def measured_bandwidth() -> float:
    """Bytes per second that one thread reads: the best of some products of a large matrix and a vector."""
    matrix, vector = np.ones((16384, 4096), np.float32), np.ones(4096, np.float32)
    seconds = []
    for _ in range(8):
        started = time.perf_counter()
        matrix @ vector
        seconds.append(time.perf_counter() - started)
    return matrix.nbytes / min(seconds)


def bound_ms(bundle: Bundle, context: int, bandwidth: float) -> float:
    """Milliseconds of reading once what a step reads at least: our weights, and what the cache holds."""
    decoder = bundle.manifest.decoder
    assert isinstance(decoder, DecoderRecord)
    read = weights_bytes(bundle) + decoder.cache_bytes(batch=1, capacity=context)
    return round(1e3 * read / bandwidth, 2)


def weights_bytes(bundle: Bundle) -> int:
    """Bytes of what a step multiplies with; it looks up a single row of the embeddings."""
    graph = ir.load(bundle.path(bundle.manifest.buckets[0].graph)).graph
    read = [one for one in graph.initializers.values() if any(node.op_type != "Gather" for node in one.consumers())]
    return sum(one.const_value.nbytes for one in read if one.const_value is not None)


if __name__ == "__main__":
    main()
