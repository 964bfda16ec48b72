"""Memory of a long prompt that runs in chunks, against a prompt of one chunk; a process each.

Run it as: python benchmarks/bench_prefill_memory.py [BUNDLE]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
from pathlib import Path

import psutil
from measure import proportional_bytes, report

from ctx_runtime import Runtime

TOKENS = (512, 4096)
"""Of the prompt and the one token that answers it."""
_INTERVAL_S = 0.02


class Peak(threading.Thread):
    """Looks at the memory of this process again and again.

    Attributes:
        pss: the most that it has seen, in bytes.
        uss: the same of memory that no other process shares.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pss = self.uss = 0
        self._done, self._process = threading.Event(), psutil.Process()

    def run(self) -> None:
        """Look until `stop` is called."""
        while not self._done.wait(_INTERVAL_S):
            self.pss = max(self.pss, proportional_bytes())
            self.uss = max(self.uss, self._process.memory_full_info().uss)

    def stop(self) -> None:
        """Look no more."""
        self._done.set()
        self.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "bundle",
        type=Path,
        nargs="?",
        default=Path("demo/smollm2.bundle"),
        help="with a bucket of 4,096 tokens; by default what `make demo-chat` builds",
    )
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        print(json.dumps(_measure(arguments.bundle, arguments.child)))
        return
    _child(arguments.bundle, TOKENS[0])  # fills the cache of repacked weights
    short, long = (_child(arguments.bundle, tokens) for tokens in TOKENS)
    ratios = {f"{kind}_ratio": round(long[f"{kind}_mb"] / short[f"{kind}_mb"], 3) for kind in ("pss", "uss")}
    report("prefill_memory", {"cases": [short, long], **ratios, "goal": {"pss_ratio": 1.3}})


def _child(bundle: Path, tokens: int) -> dict[str, float]:
    line = [sys.executable, __file__, str(bundle), "--child", str(tokens)]
    answer: dict[str, float] = json.loads(subprocess.run(line, check=True, capture_output=True, text=True).stdout)
    return answer


def _measure(bundle: Path, tokens: int) -> dict[str, float]:
    """Peaks while a prompt runs, in MB without its KV cache; the session is open before."""
    with Runtime.open(bundle) as runtime:
        runtime.explain(tokens - 1)
        peak = Peak()
        peak.start()
        try:
            generation = runtime.generate([100] * (tokens - 1), max_new_tokens=1)
            cache = generation.dispatch.cache_bytes
        finally:
            peak.stop()
        chunk = runtime.bundle.manifest.decoder.chunk  # type: ignore[union-attr]
    sizes = {"pss_mb": peak.pss - cache, "uss_mb": peak.uss - cache, "cache_mb": cache}
    return {"tokens": tokens, "chunk": chunk} | {name: round(value / 1e6, 1) for name, value in sizes.items()}


if __name__ == "__main__":
    main()
