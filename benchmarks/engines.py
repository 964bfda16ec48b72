"""Engines to compare, each a process of its own in its own virtual environment, asked one line of JSON at a time.

Every process gets one thread for its computations. Nothing here needs more than Python itself: engines import it.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
}
Answer = dict[str, Any]


HERE = Path(__file__).parent


def peers() -> Path:
    """Where other engines and their models lie: the folder that `CTX_PEERS` names, or the repository's `.peers`."""
    return Path(os.environ.get("CTX_PEERS", HERE.parent / ".peers"))


def interpreter(name: str) -> str:
    """The interpreter of the virtual environment with what `NAME.txt` lists, which is made where it is missing."""
    requirements, folder = HERE / f"{name}.txt", peers() / name
    stamp = folder / f"installed-{hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]}"
    python = folder / "bin/python"
    if not stamp.exists():
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--requirement", requirements], check=True)
        stamp.touch()
    return str(python)


class Engine:
    """An engine that runs; `ask` waits for its answer.

    Args:
        python: the interpreter of its environment.
        script: beside this file; it calls `serve`.
        arguments: of the script.
    """

    def __init__(self, python: str, script: str, *arguments: str) -> None:
        line = [python, str(HERE / script), *arguments]
        self._name = " ".join([script, *arguments])
        self._process = subprocess.Popen(
            line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | ONE_THREAD
        )

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)

    def ask(self, what: str, **details: object) -> Answer:
        """The answer of the engine's handler `what` to `details`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([what, details]) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"{self._name} ended: its error stands above")
        answer: Answer = json.loads(line)
        return answer


def turns(names: Sequence[str], rounds: int) -> Iterator[tuple[int, str]]:
    """The number of the round and a name, each name once a round, in an order that rotates."""
    for turn in range(rounds):
        first = turn % len(names)
        for name in (*names[first:], *names[:first]):
            yield turn, name


def serve(start: Callable[[], Mapping[str, Callable[..., Answer]]]) -> None:
    """In an engine's process: answer questions until there are no more.

    `start` makes the handlers; `versions` of packages is told beside them. What the engine prints goes to the standard
    error.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    handlers = {"versions": lambda packages: {name: version(name) for name in packages}, **start()}
    for line in sys.stdin:
        what, details = json.loads(line)
        answers.write(json.dumps(handlers[what](**details)) + "\n")
        answers.flush()


def timed(work: Callable[[], object]) -> tuple[Any, Answer]:
    """What `work` gives, and the wall time and the CPU time of this process that it took, in seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    value = work()
    return value, {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
