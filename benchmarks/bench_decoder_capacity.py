"""What a larger KV cache costs a small talk: in speed, in memory, and when a text moves into it.

SmolLM2-135M-Instruct with one thread, whose CPU time is all there is to measure of speed; in turns whose order rotates.

Usage: python bench_decoder_capacity.py [--precision fp32|int8|int4]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from itertools import islice

import numpy as np
from measure import counting, interleave, proportional_bytes, report

from ctx_runtime import Runtime
from ctx_runtime.generation.row import Token

CONTEXT, STEPS = 128, 8
"""Tokens of the prompt, and of a turn."""
FROM, TO, MOVES = "ctx-1024", "ctx-4096", 3
"""The move that is measured, and how often."""
GOAL = {"slowest_over_smallest": 1.1, "memory_ratio": 1.05, "move_in_steps": 3.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=("fp32", "int8", "int4"), default="int4")
    parser.add_argument("--memory", nargs=2, metavar=("BUNDLE", "BUCKETS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        return measure_memory(options.memory[0], int(options.memory[1]))
    from smollm2_models import bundle  # not in the measured processes: it loads PyTorch

    load, path = os.getloadavg()[0], bundle(options.precision)
    with Runtime.open(path) as runtime:
        figures = {"speed": speed(runtime), "move": move(runtime)}
    figures["memory"] = memory(path)
    report("decoder_capacity", {"precision": options.precision, "load": load, "goal": GOAL, **figures})


def speed(runtime: Runtime) -> dict[str, object]:
    """Milliseconds of a token behind 128 others in a cache of each bucket, the smallest one twice: medians."""
    capacities = [bucket.max_length for bucket in runtime.bundle.manifest.buckets]
    talks = {f"ctx-{capacity}": begin(runtime, capacity) for capacity in capacities}
    talks["the smallest again"] = begin(runtime, capacities[0])
    rounds = (capacities[0] - CONTEXT) // STEPS - 2
    turns = {name: partial(go_on, talk, STEPS) for name, talk in talks.items()}
    seconds = interleave(turns, rounds=rounds, clock=time.thread_time)
    ms = {name: float(np.median(values)) / STEPS * 1e3 for name, values in seconds.items()}
    smallest = ms[f"ctx-{capacities[0]}"]
    slowest = max(value for name, value in ms.items() if name in runtime.stats().buckets)
    return {
        "context": CONTEXT,
        "ms": {name: round(value, 2) for name, value in ms.items()},
        "slowest_over_smallest": round(slowest / smallest, 3),
        "noise": round(ms["the smallest again"] / smallest, 3),
    }


def begin(runtime: Runtime, capacity: int) -> Iterator[Token]:
    """A talk of 128 tokens in a cache of `capacity`, the prompt read."""
    talk = iter(runtime.generate(prompt(runtime, CONTEXT, capacity), max_new_tokens=capacity - CONTEXT))
    go_on(talk, 1)
    return talk


def prompt(runtime: Runtime, length: int, turn: int) -> list[int]:
    return counting(runtime.bundle.path("tokenizer/tokenizer.json"), length, turn)


def go_on(talk: Iterator[Token], tokens: int) -> None:
    """Take some tokens from a talk."""
    assert sum(1 for _ in islice(talk, tokens)) == tokens, "the text has ended"


def move(runtime: Runtime) -> dict[str, object]:
    """What a text takes more around its move than in other steps, in steps: medians over the moves.

    The steps before it take the larger buffers one by one: a step for each.
    """
    costs = np.array([one_move(runtime, turn) for turn in range(MOVES)])
    step, moving, preparing = np.median(costs, axis=0)
    return {
        "from": FROM,
        "to": TO,
        "step_ms": round(1e3 * float(step), 2),
        "move_in_steps": round(float(moving / step), 2),
        "with_preparation_in_steps": round(float((moving + preparing) / step), 2),
    }


def one_move(runtime: Runtime, turn: int) -> tuple[float, float, float]:
    """Seconds of a step before the move, and those that the move and the steps that prepare it take beyond it."""
    decoder, full = runtime.bundle.manifest.decoder, int(FROM.removeprefix("ctx-"))
    assert decoder is not None
    generation = runtime.generate(prompt(runtime, full - decoder.reserve, turn))
    talk, seconds = iter(generation), []
    go_on(talk, 1)
    for _ in range(decoder.reserve + 1):
        started = time.thread_time()
        go_on(talk, 1)
        seconds.append(time.thread_time() - started)
    generation.cancel()
    assert generation.dispatch.buckets == (FROM, TO)
    prepared = decoder.layers
    step = float(np.median(seconds[-2 * prepared - 1 : -prepared - 1]))
    return step, seconds[-1] - step, sum(seconds[-prepared - 1 : -1]) - prepared * step


def memory(path: str) -> dict[str, object]:
    """PSS of a process with a talk in the largest bucket, and of one with a talk in each, without their caches.

    A process before them fills the cache of repacked weights. What a prompt takes while it is read grows with the
    capacity, so that the largest bucket is in both.
    """
    lines = [[sys.executable, __file__, "--memory", path, str(buckets)] for buckets in (1, 1, 4)]
    _, one, four = (json.loads(subprocess.run(line, check=True, capture_output=True).stdout) for line in lines)
    ratio = round(four["without_caches"] / one["without_caches"], 3)
    return {"one_mb": one, "four_mb": four, "memory_ratio": ratio}


def measure_memory(path: str, buckets: int) -> None:
    """Print the memory of this process with a talk in each of the `buckets` largest buckets, in megabytes."""
    with Runtime.open(path) as runtime:
        manifest = runtime.bundle.manifest
        capacities = [bucket.max_length for bucket in manifest.buckets][-buckets:]
        talks = [begin(runtime, capacity) for capacity in capacities]
        for talk in talks:
            go_on(talk, STEPS)
        pss = proportional_bytes()
    assert manifest.decoder is not None
    caches = sum(manifest.decoder.cache_bytes(batch=1, capacity=capacity) for capacity in capacities)
    sizes = {"pss": pss, "caches": caches, "without_caches": pss - caches}
    sys.stdout.write(json.dumps({name: round(size / 1e6, 1) for name, size in sizes.items()}))


if __name__ == "__main__":
    main()
