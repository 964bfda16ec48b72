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
BUILD = ROOT / "build" / "cpp-release"  # the tests hardly optimise theirs
ENVIRONMENT = {**os.environ, "CTXRT_PYTHON": sys.executable}
OPENINGS = {"bare": "bare", "first": "changed", "later": "changed", "full": "full", "sizes": "sizes"}
"""What is measured, and what is hashed then: the first open finds no record of the weights' hash, a later one does."""
ROUNDS = 40


def main() -> None:
    _compile()
    with tempfile.TemporaryDirectory() as folder:
        bundle = _bundle(Path(folder) / "minilm.bundle")
        runs = {
            "a graph of 6 us": _figures("run", ROOT / "tests" / "cross" / "tiny", 8, 5000, cache=Path(folder)),
            "MiniLM, 8 tokens": _figures("run", bundle, 8, 300, cache=Path(folder)),
        }
        load_before = os.getloadavg()[0]
        opening = _openings(bundle, Path(folder))
    report(
        "cpp_dispatch",
        {
            "runs": {
                name: {**figures, "extra_us": figures["runtime_us"] - figures["bare_us"]}
                for name, figures in runs.items()
            },
            "open_to_first_answer": {how: _summary(figures) for how, figures in opening.items()},
            "rounds": ROUNDS,
            "load_average": {"before_opening": load_before, "after": os.getloadavg()[0]},
            "goal": "extra_us <= 20; a later open no slower than bare",
        },
    )


def _openings(bundle: Path, folder: Path) -> dict[str, list[dict[str, float]]]:
    """Milliseconds of each opening, a process each, in an order that rotates."""
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in OPENINGS}
    _figures("open", bundle, "changed", 8, cache=folder / "later")
    names = list(OPENINGS)
    for turn in range(ROUNDS):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            cache = folder / (f"first-{turn}" if name == "first" else "later")
            figures[name].append(_figures("open", bundle, OPENINGS[name], 8, cache=cache))
    return figures


def _summary(figures: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """The least and the median, of wall and of CPU time."""
    columns = {key: [one[key] for one in figures] for key in figures[0]}
    return {key: {"least": min(column), "median": median(column)} for key, column in columns.items()}


def _compile() -> None:
    source = ROOT / "runtime" / "cpp"
    for command in (
        [source / "scripts" / "get-headers", ROOT / "build" / "ort-headers"],
        ["cmake", "-S", source, "-B", BUILD, "-DCTXRT_BENCHMARKS=ON", "-DCMAKE_BUILD_TYPE=Release"],
        ["cmake", "--build", BUILD, "--target", "cpp_dispatch"],
    ):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _bundle(path: Path) -> Path:
    made = Path(os.environ.get("CTX_MINILM_BUNDLE", ROOT / "demo" / "minilm.bundle"))
    if (made / "manifest.json").exists():
        return made
    from ctx_export.pipeline import build  # it loads PyTorch

    return build(minilm(), "edge-cpu", path).bundle.root


def _figures(*arguments: object, cache: Path) -> dict[str, float]:
    line = [str(BUILD / "cpp_dispatch"), *map(str, arguments)]
    environment = ENVIRONMENT | {"CTX_RUNTIME_CACHE": str(cache)}
    done = subprocess.run(line, check=True, capture_output=True, text=True, env=environment)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


if __name__ == "__main__":
    main()
