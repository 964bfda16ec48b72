"""Builds an engine in a child process: a crash of the native library, or too much memory, is one error line here.

The child reads its request from stdin and writes a JSON object a line to stdout. What the native library prints goes to
stderr, of which the last line is kept for the error.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO

from ctx_export.engines import BuildOutcome, EngineRequest
from ctx_runtime.errors import CtxError, EngineError

_POLL_SECONDS = 0.02


def build_in_child(
    request: EngineRequest,
    output: Path,
    *,
    memory_limit_bytes: int | None = None,
    on_profile: Callable[[int], None] = lambda done: None,
) -> BuildOutcome:
    """Build the engine of `request` into the new file `output`, in a process of its own.

    Args:
        request: what to build.
        output: the engine file; there is none unless the build succeeds.
        memory_limit_bytes: resident memory at which the build is ended; Linux only.
        on_profile: told how many optimization profiles are finished.

    Raises:
        EngineError: TensorRT refuses the request, the process died, or it took more memory than allowed.
        MissingExtraError: the library is not installed.
    """
    if memory_limit_bytes is not None and not Path("/proc/self/statm").exists():
        raise EngineError("a memory limit needs Linux", hint="build without it")
    with (
        tempfile.TemporaryFile() as stderr,
        subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr
        ) as child,
    ):
        try:
            outcome = _converse(child, request, output, memory_limit_bytes, on_profile)
            if outcome is None:
                raise EngineError(f"the build of {request.subject} {_cause_of_death(child.wait(), stderr)}")
            return outcome
        except BaseException:
            child.kill()
            child.wait()
            output.unlink(missing_ok=True)
            raise


def _converse(
    child: subprocess.Popen[bytes],
    request: EngineRequest,
    output: Path,
    memory_limit_bytes: int | None,
    on_profile: Callable[[int], None],
) -> BuildOutcome | None:
    """Send the request and follow the answers; None if the child ends without a last one."""
    assert child.stdin is not None and child.stdout is not None  # noqa: S101 (both are pipes)
    lines: queue.Queue[bytes] = queue.Queue()
    threading.Thread(target=_read_lines, args=(child.stdout, lines), daemon=True).start()
    with contextlib.suppress(BrokenPipeError), child.stdin as stdin:  # it has died: there will be no answer
        stdin.write(json.dumps({"request": request.model_dump(mode="json"), "output": str(output)}).encode())
    while True:
        try:
            line = lines.get(timeout=_POLL_SECONDS)
        except queue.Empty:
            _check_memory(child.pid, request, memory_limit_bytes)
            continue
        if not line:
            return None
        match json.loads(line):
            case {"profiles": int(done)}:
                on_profile(done)
            case {"outcome": outcome}:
                return BuildOutcome.model_validate(outcome)
            case {"error": str(message), "hint": hint}:
                raise EngineError(message, hint=hint)


def _read_lines(stream: IO[bytes], lines: queue.Queue[bytes]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(b"")


def _check_memory(pid: int, request: EngineRequest, limit_bytes: int | None) -> None:
    if limit_bytes is None:
        return
    try:
        resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):  # it has just ended
        return
    if resident > limit_bytes:
        raise EngineError(
            f"the build of {request.subject} needs more than the {limit_bytes >> 20} MiB of memory that it may take",
            hint="a build takes about twice the weights and 0.5 GiB: raise the memory limit",
        )


def _cause_of_death(status: int, stderr: IO[bytes]) -> str:
    stderr.seek(0)
    said = [line for line in stderr.read().decode("utf-8", "replace").splitlines() if line.strip()]
    last = f": {said[-1].strip()[:300]}" if said else ""
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}{last}"
    return f"ended with status {status}{last}"


def _serve() -> None:
    """The child: build what stdin asks for."""
    from ctx_export.engines.builder import build_engine  # noqa: PLC0415 (loads onnx: the parent does not need it)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and ends this process
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def tell(message: dict[str, object]) -> None:
        answers.write(json.dumps(message) + "\n")

    asked = json.load(sys.stdin)
    try:
        request = EngineRequest.model_validate(asked["request"])
        outcome = build_engine(request, Path(asked["output"]), lambda done: tell({"profiles": done}))
        tell({"outcome": outcome.model_dump(mode="json")})
    except CtxError as error:
        tell({"error": str(error), "hint": error.hint})


if __name__ == "__main__":
    _serve()
