"""What more buckets cost: building four against building one, in time without parity, and in bytes."""

from __future__ import annotations

import tempfile
from pathlib import Path

from measure import minilm, report

from ctx_export.pipeline import build
from ctx_runtime.resource_profile import ResourceProfile

ENDS = {"one": (512,), "four": (64, 128, 256, 512)}


def main() -> None:
    figures: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as folder:
        build(minilm(), _profile(ENDS["one"]), Path(folder) / "warm", cache_dir=Path(folder) / "warm-cache")
        for name, ends in ENDS.items():
            built = build(minilm(), _profile(ends), Path(folder) / name, cache_dir=Path(folder) / f"{name}-cache")
            seconds = built.seconds["total"] - built.seconds["parity"]
            figures[name] = {"seconds": round(seconds, 2), "bundle_bytes": built.bundle_bytes, "ends": ends}
        again = build(
            minilm(), _profile((64, 128, 300, 512)), Path(folder) / "x", cache_dir=Path(folder) / "four-cache"
        )
        figures["one bucket changed"] = {"seconds": round(again.seconds["total"], 2), "cached": again.cached}
    ratios = {
        key: round(figures["four"][key] / figures["one"][key], 3)  # type: ignore[operator]
        for key in ("seconds", "bundle_bytes")
    }
    report("build", {**figures, "ratio": ratios, "goal": {"seconds": 1.5, "bundle_bytes": 1.05}})


def _profile(ends: tuple[int, ...]) -> ResourceProfile:
    return ResourceProfile.model_validate({"name": "bench", "buckets": [{"max_length": end} for end in ends]})


if __name__ == "__main__":
    main()
