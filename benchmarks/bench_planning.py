"""What planned buckets save under fixed shapes, against powers of two and fixed steps, with as many buckets.

Nothing is timed but the planning: costs follow from the latency of all-MiniLM-L6-v2 on one thread, fitted to
`results/overhead.json`.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from measure import report

from ctx_export.costs import DEFAULT_LATENCY, CostModel, TrafficCost
from ctx_export.planning import Budget, plan_buckets
from ctx_export.traffic import read_traffic
from ctx_runtime.histogram import LengthHistogram

MOBY_DICK = Path(__file__).parents[1] / "tests/fixtures/moby_dick_lengths.txt"
MODEL = CostModel(DEFAULT_LATENCY, "bucket")
BUCKETS = 9


def main() -> None:
    drawn = np.random.default_rng(0).lognormal(np.log(60), np.log(300 / 60) / 1.645, 20_000)
    samples = {
        "Moby-Dick, 2513 paragraphs": read_traffic(MOBY_DICK),
        "log-normal, median 60, p95 300": LengthHistogram.of(np.clip(np.ceil(drawn), 1, 8192).astype(int)),
    }
    figures = {name: _compare(histogram) for name, histogram in samples.items()}
    report("planning", {"goal": "saved_against_powers_of_two >= 0.15", **figures})


def _compare(histogram: LengthHistogram) -> dict[str, object]:
    started = time.perf_counter()
    plan = plan_buckets(histogram, MODEL, Budget(buckets=BUCKETS), resamples=20)
    seconds = time.perf_counter() - started
    rows = []
    for count, mine in enumerate(plan.curve[:BUCKETS], 1):
        peers = {
            "doublings": _doublings(histogram, count),
            "best_powers_of_two": plan.powers_of_two[count - 1].total_ms,
            "fixed_steps": plan.fixed_steps[count - 1].total_ms,
        }
        saved = {f"saved_against_{name}": round(1 - mine.total_ms / total, 3) for name, total in peers.items()}
        rows.append({"buckets": count, "ends": mine.ends, **saved})
    assert plan.stability is not None
    return {
        "lengths": len(histogram.lengths),
        "planned_and_resampled_s": round(seconds, 2),
        "recommended": plan.count,
        "regret_on_resamples": round(plan.stability.regret_mean, 4),
        "by_buckets": rows,
    }


def _doublings(histogram: LengthHistogram, count: int) -> float:
    """The usual powers of two: up to the first that holds the longest input, which is cut to it."""
    last = (histogram.longest - 1).bit_length()
    ends = [*(2**power for power in range(last - count + 1, last)), histogram.longest]
    return TrafficCost.of(histogram, MODEL, ends=ends).total_ms(ends)


if __name__ == "__main__":
    main()
