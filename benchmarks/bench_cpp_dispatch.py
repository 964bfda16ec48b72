"""What the C++ runtime adds to a run, and to opening, against ONNX Runtime's C interface."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from measure import minilm, report

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "cpp"
ENVIRONMENT = {**os.environ, "CTXRT_PYTHON": sys.executable}
OPENINGS = ("bare", "full", "overlapped", "sizes")
ROUNDS = 15


def main() -> None:
    _compile()
    with tempfile.TemporaryDirectory() as folder:
        bundle = _bundle(Path(folder) / "minilm.bundle")
        runs = {
            "a graph of 6 us": _figures("run", ROOT / "tests" / "cross" / "tiny", 8, 5000),
            "MiniLM, 8 tokens": _figures("run", bundle, 8, 300),
        }
        opening: dict[str, list[float]] = {how: [] for how in OPENINGS}
        for turn in range(ROUNDS):
            for how in OPENINGS[turn % len(OPENINGS) :] + OPENINGS[: turn % len(OPENINGS)]:
                opening[how].append(_figures("open", bundle, how, 8)["ms"])
    report(
        "cpp_dispatch",
        {
            "runs": {
                name: {**figures, "extra_us": figures["runtime_us"] - figures["bare_us"]}
                for name, figures in runs.items()
            },
            "open_to_first_answer_ms": {how: {"least": min(ms), "median": median(ms)} for how, ms in opening.items()},
            "goal": "extra_us <= 20; overlapped no slower than bare",
        },
    )


def _compile() -> None:
    source = ROOT / "runtime" / "cpp"
    for command in (
        [source / "scripts" / "get-headers", ROOT / "build" / "ort-headers"],
        ["cmake", "-S", source, "-B", BUILD, "-DCTXRT_BENCHMARKS=ON"],
        ["cmake", "--build", BUILD, "--target", "cpp_dispatch"],
    ):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _bundle(path: Path) -> Path:
    made = ROOT / "demo" / "minilm.bundle"
    if (made / "manifest.json").exists():
        return made
    from ctx_export.pipeline import build  # it loads PyTorch

    return build(minilm(), "edge-cpu", path).bundle.root


def _figures(*arguments: object) -> dict[str, float]:
    line = [str(BUILD / "cpp_dispatch"), *map(str, arguments)]
    done = subprocess.run(line, check=True, capture_output=True, text=True, env=ENVIRONMENT)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


if __name__ == "__main__":
    main()
