"""What the scheduler costs: requests of mixed lengths through `Runtime.submit`, against a bare session fed by hand.

The bare contenders run the very session that the runtime has opened, on as many threads as the scheduler has workers,
and know all requests beforehand: sorted by length one by one, and in batches of one exact length, as large as the
scheduler's. The scheduler is given them one after the other, in the order of the book. CPU time is of the whole
process, beside the wall time: what the neighbours of a busy machine do is not in it.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime as ort
from measure import interleave, minilm, report

from ctx_export.pipeline import build
from ctx_export.profiles import load_profile
from ctx_runtime import Runtime
from ctx_runtime.backends.onnxruntime import OrtSession
from ctx_runtime.scheduling.settings import Scheduling

LENGTHS = Path(__file__).parent.parent / "tests/fixtures/moby_dick_lengths.txt"
LONGEST, TOKEN_BUDGET = 512, 512

Feeds = dict[str, np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    profile = load_profile("edge-cpu").model_copy(update={"threads": 1})
    scheduling = Scheduling(workers=options.workers, token_budget=TOKEN_BUDGET, max_queue=options.requests)
    with tempfile.TemporaryDirectory() as folder:
        bundle = build(minilm(), profile, Path(folder) / "minilm.bundle").bundle
        with Runtime.open(bundle, share_weights="off", scheduling=scheduling) as runtime:
            figures = _compare(runtime, _requests(options.requests), options.workers, options.rounds)
    report("scheduler", {"requests": options.requests, "rounds": options.rounds, "workers": options.workers, **figures})


def _requests(count: int) -> list[Feeds]:
    """Inputs of the first lengths of Moby-Dick that fit a bucket, in the order of the book."""
    random = np.random.default_rng(0)
    lengths = [int(line) for line in LENGTHS.read_text().splitlines() if not line.startswith("#")]
    fitting = itertools.islice((length for length in lengths if length <= LONGEST), count)
    tokens = [random.integers(1000, 20000, (1, length)) for length in fitting]
    return [{"input_ids": row, "token_type_ids": np.zeros_like(row)} for row in tokens]


def _compare(runtime: Runtime, requests: Sequence[Feeds], workers: int, rounds: int) -> dict[str, object]:
    with runtime._dispatcher.session(runtime.bundle.manifest.buckets[0], "unmasked") as opened:
        assert isinstance(opened, OrtSession)
        session = opened._session
    ordered = sorted(requests, key=lambda feeds: feeds["input_ids"].shape[1])
    contenders = {
        "bare, one by one": lambda: _feed(session, ordered, workers),
        "bare, one by one again": lambda: _feed(session, ordered, workers),
        "bare, exact batches": lambda: _feed(session, batches, workers),
        "scheduler": lambda: [future.result() for future in [runtime.submit(feeds) for feeds in requests]],
    }
    batches = _exact_batches(ordered)
    cpu: dict[str, list[float]] = {name: [] for name in contenders}
    wall = interleave({name: _timed(run, cpu[name]) for name, run in contenders.items()}, rounds=rounds)
    tokens = sum(feeds["input_ids"].size for feeds in requests)
    rows = {
        name: {
            "wall_s": round(float(np.median(wall[name])), 3),
            "cpu_s": round(float(np.median(cpu[name][1:])), 3),
            "tokens_per_s": round(tokens / float(np.median(wall[name]))),
        }
        for name in contenders
    }
    best = {key: min(rows[name][key] for name in rows if name != "scheduler") for key in ("wall_s", "cpu_s")}
    over = {f"extra_{key[:-2]}_share": round(rows["scheduler"][key] / best[key] - 1, 4) for key in best}
    stats = runtime.stats()
    runs = sum(bucket.runs for bucket in stats.buckets.values())
    return {
        "tokens": tokens,
        "goal": "extra_cpu_share <= 0.03",
        **over,
        "contenders": rows,
        "rows_a_batch": round(sum(bucket.rows for bucket in stats.buckets.values()) / runs, 2),
        "padding_share": stats.padding_share,
    }


def _timed(run, seconds: list[float]):
    """`run`, with the CPU time of the process while it ran put into `seconds`."""

    def timed() -> None:
        started = time.process_time()
        run()
        seconds.append(time.process_time() - started)

    return timed


def _exact_batches(ordered: Sequence[Feeds]) -> list[Feeds]:
    """Requests of one length together, as many as the token budget takes."""
    batches: list[Feeds] = []
    for length, group in itertools.groupby(ordered, key=lambda feeds: feeds["input_ids"].shape[1]):
        rows = list(group)
        size = max(1, min(8, TOKEN_BUDGET // length))
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            batches.append({name: np.concatenate([feeds[name] for feeds in part]) for name in part[0]})
    return batches


def _feed(session: ort.InferenceSession, feeds: Sequence[Feeds], workers: int) -> None:
    """Run every one of `feeds` on so many threads, each of which takes the next as it is free."""
    names = [output.name for output in session.get_outputs()]
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(lambda one: session.run(names, one), feeds):
            pass


if __name__ == "__main__":
    main()
