"""What dispatch costs: `Runtime.run` at batch 1 against a bare `InferenceSession.run` of the same graph and length.

Sessions of one thread run in the calling thread, so that its CPU time is all there is to measure, and what the
neighbours do is not. The bare contender runs the very session that the runtime has opened: two sessions of one graph
differ by up to 5 % in where their weights happen to lie. Contenders take turns, in two ways: each timed after an
untimed run of its own, as in an application, whose last run was the same one; and in plain turns, where two bare runs,
which leave nothing of the runtime's code in the caches, come before each of the runtime's.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
from measure import interleave, minilm, report

from ctx_export.pipeline import build
from ctx_export.profiles import load_profile
from ctx_runtime import Runtime
from ctx_runtime.backends.onnxruntime import OrtSession

LENGTHS, ROUNDS = (8, 16, 32, 64, 128, 256, 512), 100


def main() -> None:
    profile = load_profile("edge-cpu").model_copy(update={"threads": 1})
    with tempfile.TemporaryDirectory() as folder:
        bundle = build(minilm(), profile, Path(folder) / "minilm.bundle").bundle
        with Runtime.open(bundle, share_weights="off") as runtime:
            session = _session(runtime)
            rows = [_compare(session, runtime, length) for length in LENGTHS]
    report("overhead", {"rounds": ROUNDS, "goal": "extra_us <= 50 or extra_share <= 0.03", "lengths": rows})


def _session(runtime: Runtime) -> ort.InferenceSession:
    """The one session that serves every bucket: they have the same network."""
    with runtime._dispatcher.session(runtime.bundle.manifest.buckets[0], "unmasked") as opened:
        assert isinstance(opened, OrtSession)
        return opened._session


def _compare(session: ort.InferenceSession, runtime: Runtime, length: int) -> dict[str, object]:
    tokens = np.random.default_rng(length).integers(1000, 20000, (1, length))
    feeds = {"input_ids": tokens, "token_type_ids": np.zeros_like(tokens)}
    names = [output.name for output in session.get_outputs()]
    contenders = {
        "bare": lambda: session.run(names, feeds),
        "control": lambda: session.run(names, feeds),
        "runtime": lambda: runtime.run(feeds),
    }
    return {
        "length": length,
        "after_its_own": _differences(contenders, untimed=1),
        "in_plain_turns": _differences(contenders, untimed=0),
    }


def _differences(contenders: dict[str, Callable[[], object]], *, untimed: int) -> dict[str, float]:
    """Medians over the rounds: of the bare run, and of what the runtime and the control take beyond it."""
    seconds = interleave(contenders, rounds=ROUNDS, clock=time.thread_time, untimed=untimed)
    bare, extra = float(np.median(seconds["bare"])), float(np.median(seconds["runtime"] - seconds["bare"]))
    return {
        "bare_ms": round(bare * 1e3, 3),
        "extra_us": round(extra * 1e6, 1),
        "extra_share": round(extra / bare, 4),
        "noise_us": round(float(np.median(seconds["control"] - seconds["bare"])) * 1e6, 1),
    }


if __name__ == "__main__":
    main()
