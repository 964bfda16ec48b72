"""Useful tokens per second and latency under load of our scheduler and of other engines, on all-MiniLM-L6-v2.

Lengths are those of the paragraphs of Moby-Dick and of a log-normal distribution (median 60, 95th percentile 300), at
most 512 tokens, which is as far as the model reaches. Every engine is a process of its own with one thread; all get
the same requests, in turns, each in the way that suits it best, but optimum-onnx, which also gets them in batches of 32
as they come. An engine whose embeddings are not ours ends the benchmark.

Usage: python bench_traffic.py [--requests N] [--rounds N] [--seconds N]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from engines import Answer, Engine, interpreter, turns
from measure import minilm, report

from ctx_export.pipeline import build
from ctx_export.profiles import load_profile
from ctx_export.traffic import read_traffic

MOBY_DICK = Path(__file__).parents[1] / "tests/fixtures/moby_dick_lengths.txt"
LONGEST, LOAD = 512, 0.7
OURS, BARE, CONTROL, OPTIMUM = (
    "ctx-export",
    "bare session, best order",
    "bare session again",
    "optimum-onnx, as they come",
)
SORTING = ("sentence-transformers", "OpenVINO", "optimum-onnx, shortest first")
"""The peers that order requests by their length, or are given them so."""
CONTENDERS = {
    OURS: ("ctx-export", "submit"),
    BARE: ("ctx-export", "bare"),
    CONTROL: ("ctx-export", "bare"),
    OPTIMUM: ("optimum-onnx", "batches of 32"),
    "optimum-onnx, shortest first": ("optimum-onnx", "one by one"),
    "transformers": ("transformers", "one by one"),
    "sentence-transformers": ("sentence-transformers", "encode"),
    "OpenVINO": ("OpenVINO", "one by one"),
}
"""By the name of a contender its engine, and the way in which that gets all requests at once."""
PACKAGES = {
    "ctx-export": ("onnxruntime",),
    "optimum-onnx": ("optimum-onnx", "onnxruntime", "transformers", "torch"),
    "transformers": ("transformers", "torch"),
    "sentence-transformers": ("sentence-transformers", "transformers", "torch"),
    "OpenVINO": ("openvino",),
}
"""Of each engine, those that its figures depend on."""
GOAL = {"against_optimum": 4.0, "against_best_sorting": 1.0}


class Options(NamedTuple):
    """How much is measured."""

    requests: int
    rounds: int
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=80, help="of a round")
    parser.add_argument("--rounds", type=int, default=2, help="each of other requests")
    parser.add_argument("--seconds", type=float, default=6.0, help="of arrivals in each round under load")
    options, load = Options(**vars(parser.parse_args())), os.getloadavg()[0]
    with running() as engines:
        mixes = {name: compare(engines, lengths, options) for name, lengths in traffic().items()}
        name, lengths = next(iter(traffic().items()))
        versions = {engine: engines[engine].ask("versions", packages=packages) for engine, packages in PACKAGES.items()}
        loaded = under_load(engines, lengths, LOAD * mixes[name]["contenders"][OURS]["requests_per_s"], options)
    figures = {"load": load, **options._asdict(), "goal": GOAL, **mixes, f"{LOAD} of capacity, {name}": loaded}
    report("traffic", {"engines": versions, **figures})


def traffic() -> dict[str, np.ndarray]:
    """The lengths of requests, in tokens, by where they come from."""
    log_normal = np.random.default_rng(0).lognormal(np.log(60), np.log(300 / 60) / 1.645, 20_000)
    book = read_traffic(MOBY_DICK)
    return {
        "Moby-Dick, paragraphs": np.clip(np.repeat(book.lengths, book.counts), 3, LONGEST),
        "log-normal, median 60, p95 300": np.clip(np.ceil(log_normal).astype(int), 3, LONGEST),
    }


@contextmanager
def running() -> Iterator[dict[str, Engine]]:
    """Every engine in its process, with the model loaded."""
    profile = load_profile("edge-cpu").model_copy(update={"threads": 1})
    environments = {"ctx-export": sys.executable, "optimum-onnx": interpreter("peers_optimum")}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        bundle = build(minilm(), profile, Path(folder) / "minilm.bundle").bundle.root
        engines = {}
        for name, _ in CONTENDERS.values():
            if name not in engines:
                own = [str(bundle)] if name == OURS else []
                python = environments.get(name) or interpreter("peers")
                engines[name] = stack.enter_context(Engine(python, "encoder_engines.py", name, str(minilm()), *own))
        yield engines


def compare(engines: Mapping[str, Engine], lengths: np.ndarray, options: Options) -> dict[str, Any]:
    """Every contender's rates over the same requests, all of them there at once."""
    samples = [drawn(lengths, options.requests, turn) for turn in range(options.rounds)]
    take_turns(engines, [drawn(lengths, 8, 0)])
    answers = take_turns(engines, samples)
    check(answers)
    rates = {name: rated(answers[name], samples) for name in CONTENDERS}
    ours = rates[OURS]["tokens_per_s"]
    return {
        "against_optimum": round(ours / rates[OPTIMUM]["tokens_per_s"], 2),
        "against_best_sorting": round(ours / max(rates[name]["tokens_per_s"] for name in SORTING), 3),
        "noise": round(rates[CONTROL]["tokens_per_s"] / rates[BARE]["tokens_per_s"], 3),
        "contenders": rates,
    }


def take_turns(engines: Mapping[str, Engine], samples: list[list[int]]) -> dict[str, list[Answer]]:
    """What each contender answers to requests of each sample of lengths."""
    answers: dict[str, list[Answer]] = {name: [] for name in CONTENDERS}
    for turn, name in turns(list(CONTENDERS), len(samples)):
        engine, way = CONTENDERS[name]
        answers[name].append(engines[engine].ask("throughput", way=way, lengths=samples[turn], seed=turn))
    return answers


def drawn(lengths: np.ndarray, count: int, seed: int) -> list[int]:
    """Lengths of `count` requests, in no order: one of each `1 / count` of all, so that samples differ little."""
    random = np.random.default_rng(seed)
    picked = np.sort(lengths)[((np.arange(count) + random.random(count)) / count * len(lengths)).astype(int)]
    return list(map(int, random.permutation(picked)))


def check(answers: Mapping[str, list[Answer]]) -> None:
    """End where an engine's embeddings are not ours."""
    for name, others in answers.items():
        pairs = zip(answers[OURS], others, strict=True)
        worst = max(float(np.abs(np.subtract(ours["begins"], other["begins"])).max()) for ours, other in pairs)
        if worst > 1e-4:
            sys.exit(f"{name}: embeddings differ from ours by {worst}")


def rated(answers: list[Answer], samples: list[list[int]]) -> dict[str, float]:
    """Rates by wall time and by the CPU time of the process, medians over the rounds."""
    tokens, seconds = list(map(sum, samples)), [answer["wall_s"] for answer in answers]
    cpu = [answer["cpu_s"] for answer in answers]
    return {
        "tokens_per_s": round(float(np.median(np.divide(tokens, seconds))), 1),
        "tokens_per_cpu_s": round(float(np.median(np.divide(tokens, cpu))), 1),
        "requests_per_s": round(float(np.median(np.divide(list(map(len, samples)), seconds))), 2),
    }


def under_load(engines: Mapping[str, Engine], lengths: np.ndarray, rate: float, options: Options) -> dict[str, object]:
    """Seconds from arrival to answer where `rate` requests a second arrive at random moments, in every engine alone."""
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    samples = [drawn(lengths, round(rate * options.seconds), turn) for turn in range(options.rounds)]
    for turn, name in turns(list(engines), options.rounds):
        seconds[name] += engines[name].ask("latency", lengths=samples[turn], seed=turn, rate=rate)["seconds"]
    return {"requests_per_s": round(rate, 2)} | {
        name: {f"p{share}_ms": round(1e3 * float(np.percentile(values, share)), 1) for share in (50, 95)}
        for name, values in seconds.items()
    }


if __name__ == "__main__":
    main()
