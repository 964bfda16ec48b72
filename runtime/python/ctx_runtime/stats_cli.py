"""`ctx-runtime stats`: recorded lengths by bucket, and whether the buckets still fit them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ctx_runtime.bundle import Bundle
from ctx_runtime.drift import Drift, drift
from ctx_runtime.errors import InputError
from ctx_runtime.histogram import LengthHistogram
from ctx_runtime.manifest import Manifest
from ctx_runtime.printing import print_json, print_line, print_table
from ctx_runtime.recording import read_recorded

_ADVICE = {
    "fits": "the buckets fit this traffic",
    "watch": "the traffic has moved somewhat: look again when more is recorded",
    "replan": "the traffic is not what the buckets were planned for; plan and build again:",
}

AddCommand = Callable[[str, Callable[[argparse.Namespace], int], str, str], argparse.ArgumentParser]


def add_command(add: AddCommand) -> None:
    """Add the command; `add` takes a name, what runs it, a description and an example."""
    what = "Show recorded lengths by bucket, and whether the buckets still fit them."
    parser = add("stats", _stats, what, "--recorded lengths.json --drift")
    parser.add_argument(
        "--recorded", type=Path, required=True, help="what `serve --record` or `Runtime.open(record=…)` has written"
    )
    parser.add_argument(
        "--drift", action="store_true", help="compare with the planned traffic; exit with 1 if a new plan is due"
    )


def _stats(options: argparse.Namespace) -> int:
    manifest = Bundle.open(options.bundle, check="sizes").manifest
    recorded = read_recorded(options.recorded)
    ends = [bucket.max_length for bucket in manifest.buckets]
    found = _drift(manifest, recorded, ends) if options.drift else None
    if options.json:
        print_json(_to_json(recorded, recorded.by_bucket(ends), ends, found))
    else:
        _print(recorded, recorded.by_bucket(ends), ends, found)
        if found is not None:
            _advise(found, options.recorded)
    return 1 if found is not None and found.verdict == "replan" else 0


def _drift(manifest: Manifest, recorded: LengthHistogram, ends: list[int]) -> Drift:
    if manifest.planned_inputs is None:
        raise InputError(
            "the bundle does not say what traffic its buckets were planned for",
            hint="build it with a profile that ctx-export plan has written",
        )
    return drift(recorded.by_bucket(ends), manifest.planned_inputs, ends)


def _names(ends: list[int]) -> list[str]:
    return [*(f"ctx-{end}" for end in ends), f"longer than {ends[-1]}"]


def _to_json(recorded: LengthHistogram, counts: tuple[int, ...], ends: list[int], found: Drift | None) -> object:
    buckets: list[dict[str, Any]] = [
        {"bucket": name, "max_length": end, "inputs": inputs}
        for name, end, inputs in zip(_names(ends), (*ends, None), counts, strict=True)
    ]
    for bucket, part in zip(buckets, found.buckets if found is not None else (), strict=False):
        bucket |= {"planned_share": part.planned, "share": part.now, "index": part.index}
    described = {
        "inputs": recorded.inputs,
        "tokens": recorded.tokens,
        "p50": recorded.percentile(50),
        "p95": recorded.percentile(95),
        "longest": recorded.longest,
        "buckets": buckets,
    }
    if found is not None:
        described["drift"] = {"index": found.index, "by_chance": found.by_chance, "verdict": found.verdict}
    return described


def _print(recorded: LengthHistogram, counts: tuple[int, ...], ends: list[int], found: Drift | None) -> None:
    print_line(
        f"{recorded.inputs} inputs, {recorded.tokens} tokens: half up to {recorded.percentile(50)} tokens, "
        f"95 % up to {recorded.percentile(95)}, the longest {recorded.longest}"
    )
    shares = [f"{inputs / recorded.inputs:.1%}" for inputs in counts]
    if found is None:
        print_table(("bucket", "inputs", "share"), zip(_names(ends), counts, shares, strict=True))
        return
    planned = [f"{part.planned:.1%}" for part in found.buckets]
    parts = [f"{part.index:.3f}" for part in found.buckets]
    print_table(
        ("bucket", "inputs", "share", "planned", "index"),
        zip(_names(ends), counts, shares, planned, parts, strict=True),
    )


def _advise(found: Drift, recorded: Path) -> None:
    print_line(f"stability index {found.index:.3f}, of it by chance {found.by_chance:.3f}: {_ADVICE[found.verdict]}")
    if found.verdict == "replan":
        print_line(f"  ctx-export plan --traffic {recorded} -o planned.yaml")
        print_line("  ctx-export build MODEL -p planned.yaml -o BUNDLE")
