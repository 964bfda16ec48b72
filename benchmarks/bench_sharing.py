"""Memory of open sessions: one bucket against four, weights mapped or copied; a process each."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from measure import anonymous_bytes, interleave, minilm, proportional_bytes, report

from ctx_runtime import Runtime
from ctx_runtime.resource_profile import ResourceProfile

LENGTHS = (60, 120, 250, 500)
PROFILES = {
    "one network": [{"max_length": end} for end in (64, 128, 256, 512)],
    "a session a bucket": [{"max_length": 2**power, "threads": power - 5} for power in (6, 7, 8, 9)],
}


def main() -> None:
    if len(sys.argv) > 1:
        return _measure(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    from ctx_export.pipeline import build  # not in the measured processes: it loads PyTorch

    figures: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, buckets in PROFILES.items():
            profile = ResourceProfile.model_validate({"name": "bench", "buckets": buckets})
            path = str(build(minilm(), profile, Path(folder) / "b").bundle.root)
            figures[name] = {share: _ratio(path, share) for share in ("mmap", "off")}
    report("sharing", {"lengths": LENGTHS, **figures, "goal": {"pss_ratio with mmap": 1.25}})


def _ratio(path: str, share: str) -> dict[str, object]:
    _child(path, share, 1)  # fills the cache of repacked weights
    one, four = _child(path, share, 1), _child(path, share, 4)
    return {"one": one, "four": four, "pss_ratio": round(four["pss_mb"] / one["pss_mb"], 3)}


def _child(path: str, share: str, buckets: int) -> dict[str, float]:
    line = [sys.executable, __file__, path, share, str(buckets)]
    answer: dict[str, float] = json.loads(subprocess.run(line, check=True, capture_output=True, text=True).stdout)
    return answer


def _measure(path: str, share: str, buckets: int) -> None:
    """Open `buckets` sessions, run each once, and print PSS, anonymous memory, open time and run time."""
    started = time.perf_counter()
    with Runtime.open(path, share_weights=share) as runtime:  # type: ignore[arg-type]
        verified = time.perf_counter()
        feeds = [{"input_ids": np.full((1, length), 2000)} for length in LENGTHS[-buckets:]]
        for row in feeds:
            runtime.run(row)
        opened = time.perf_counter()
        memory = {"pss_mb": proportional_bytes(), "anonymous_mb": anonymous_bytes()}
        run = interleave({"run": lambda: runtime.run({"input_ids": np.full((1, 64), 2000)})}, rounds=30)["run"]
    figures = {name: round(size / 1e6, 1) for name, size in memory.items()}
    figures |= {
        "verify_ms": round((verified - started) * 1e3, 1),
        "open_and_run_ms": round((opened - verified) * 1e3, 1),
    }
    sys.stdout.write(json.dumps(figures | {"run_64_tokens_ms": round(float(np.median(run)) * 1e3, 2)}))


if __name__ == "__main__":
    main()
