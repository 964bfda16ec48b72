"""Builds one engine in this process; `worker.py` runs it in a child."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import IO

from ctx_export.engines import BuildOutcome, EngineRequest, Library, classic, rtx
from ctx_export.engines.network import BuildLog, parse_network
from ctx_export.engines.optimization_profiles import add_profiles
from ctx_export.engines.targets import check_precision
from ctx_runtime.backends.tensorrt_library import EngineBackend, Native, load_library
from ctx_runtime.errors import EngineError

LIBRARIES: dict[EngineBackend, Library] = {library.backend: library for library in (rtx.LIBRARY, classic.LIBRARY)}


def build_engine(request: EngineRequest, output: Path, on_profile: Callable[[int], None]) -> BuildOutcome:
    """Build the engine of `request` into the new file `output`.

    Args:
        request: what to build.
        output: the engine file; a build that fails leaves none.
        on_profile: told how many optimization profiles are finished; raising OSError cancels the build.

    Raises:
        EngineError: TensorRT refuses the graph, the target or the precision.
        MissingExtraError: the library is not installed.
    """
    started = time.perf_counter()
    check_precision(request.target, request.precision)
    library, trt = LIBRARIES[request.target.backend], load_library(request.target.backend)
    log = BuildLog(trt)
    builder = trt.Builder(log.logger)
    if builder is None:
        raise EngineError(_first_line(log, "TensorRT can't start"))
    network, _parser = parse_network(trt, builder, log, request)
    config = builder.create_builder_config()
    library.configure(trt, config, request.target)
    _set_flags(trt.BuilderFlag, config, request)
    add_profiles(trt, builder, config, network, request)
    config.progress_monitor = _monitor(trt, on_profile)
    with output.open("xb") as file:
        writer = _writer(trt, file)
        built = builder.build_serialized_network_to_stream(network, config, writer)
    if writer.error is not None or not built or not output.stat().st_size:
        output.unlink()
        raise writer.error or EngineError(
            f"{request.subject}: {_first_line(log, 'TensorRT built nothing')}",
            hint="the graph may use a shape or dtype without a kernel on this target",
        )
    return BuildOutcome(
        library_version=trt.__version__,
        targets=library.requirement(request.target, output),
        bytes=output.stat().st_size,
        layers=_count_layers(network),
        seconds=time.perf_counter() - started,
        peak_host_bytes=_peak_resident_bytes(),
    )


def _set_flags(flags: Native, config: Native, request: EngineRequest) -> None:
    """Precision is the graph's affair, but for TF32: its products of 10 bits would not hold float32's tolerance."""
    if request.precision == "fp32":
        config.clear_flag(flags.TF32)
    if request.stripped:
        config.set_flag(flags.STRIP_PLAN)
        config.set_flag(flags.REFIT_IDENTICAL)


def _first_line(log: BuildLog, otherwise: str) -> str:
    return " ".join(log.errors[0].split())[:400] if log.errors else otherwise


def _monitor(trt: ModuleType, on_profile: Callable[[int], None]) -> Native:
    """Counts the profiles whose kernels are chosen; the library swallows exceptions, and False cancels."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.started = 0
            self.cancelled = False

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            if phase == "Timing tactics":
                self.started += 1
                self._tell(self.started - 1)

        def step_complete(self, phase: str, step: int) -> bool:
            return not self.cancelled

        def phase_finish(self, phase: str) -> None:
            if phase == "Computing profile costs":
                self._tell(self.started)

        def _tell(self, done: int) -> None:
            try:
                on_profile(done)
            except OSError:
                self.cancelled = True

    return Monitor()


def _writer(trt: ModuleType, file: IO[bytes]) -> Native:
    """Streams the engine to `file`; the library swallows exceptions, so that `error` keeps the first."""

    class Writer(trt.IStreamWriter):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.error: EngineError | None = None

        def write(self, data: bytes) -> int:
            try:
                return int(file.write(data))
            except OSError as error:
                self.error = EngineError(f"the engine can't be written: {error.strerror or error}")
                return 0

    return Writer()


def _count_layers(network: Native) -> dict[str, int]:
    types = (str(network.get_layer(index).type).rpartition(".")[2] for index in range(network.num_layers))
    return dict(Counter(types).most_common())


def _peak_resident_bytes() -> int:
    """The most resident memory that this process has had; 0 where the system does not tell.

    Not `getrusage`: what it says of a child includes its parent's memory at the fork.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
