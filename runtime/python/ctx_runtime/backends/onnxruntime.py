"""ONNX Runtime: one session for a graph, at the settings that were measured to be the fastest on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from ctx_runtime.errors import BackendError, CtxError, InputError, MemoryBudgetError, MissingExtraError
from ctx_runtime.resource_profile import BackendName

try:
    import onnxruntime as ort

    from ctx_runtime.backends.rtx_plugin import rtx_device
except ImportError as _error:
    raise MissingExtraError("onnxruntime", "cpu", purpose="running a graph on ONNX Runtime") from _error

PROVIDERS: dict[BackendName, str] = {
    "onnxruntime-cpu": "CPUExecutionProvider",
    "onnxruntime-cuda": "CUDAExecutionProvider",
    "onnxruntime-tensorrt": "TensorrtExecutionProvider",
    "onnxruntime-tensorrt-rtx": "NvTensorRTRTXExecutionProvider",
}
_BAD_VALUES = "INVALID_ARGUMENT : Non-zero status code returned while running"
"""What ONNX Runtime says where inputs of the right dtype and shape hold numbers that a node can't take."""


class OrtSession:
    """A graph opened in ONNX Runtime.

    Args:
        graph: an ONNX file of a verified bundle.
        backend: picks the execution provider, which must be there: ONNX Runtime itself would only warn.
        threads: of one run; 0 leaves it to ONNX Runtime.
        resident_bytes: what the session is expected to keep in private memory.
        prepacked: the graph is repacked already (see `prepacked.py`) and opened as it stands.
        provider_options: of the TensorRT-RTX plug-in, see `rtx_plugin.rtx_options`.

    Raises:
        BackendError: ONNX Runtime lacks the execution provider or refuses the graph.
        MissingExtraError: the TensorRT-RTX plug-in is not installed.
        MemoryBudgetError: there is not enough memory to open it.
    """

    def __init__(
        self,
        graph: Path,
        *,
        backend: BackendName = "onnxruntime-cpu",
        threads: int = 0,
        resident_bytes: int = 0,
        prepacked: bool = False,
        provider_options: Mapping[str, str] | None = None,
    ) -> None:
        provider = PROVIDERS[backend]
        self.backend: BackendName = backend
        self.resident_bytes = resident_bytes
        options = session_options(threads)
        if prepacked:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        if backend == "onnxruntime-tensorrt-rtx":
            options.add_provider_for_devices([rtx_device()], dict(provider_options or {}))
        else:
            _require_provider(backend)
        built_in = None if options.has_providers() else [provider]
        try:
            session = ort.InferenceSession(str(graph), options, providers=built_in)
        except Exception as error:  # ONNX Runtime's errors have no common class of their own
            raise _translated(error, f"can't open {graph.name}") from error
        if session.get_providers()[0] != provider:
            raise BackendError(f"onnxruntime could not start {provider} and took {session.get_providers()[0]} instead")
        self.inputs = frozenset(node.name for node in session.get_inputs())
        self._outputs = [node.name for node in session.get_outputs()]
        self._session: ort.InferenceSession | None = session
        # The compiled session below the Python one, which would check the names again, and on an error open itself anew
        # on other providers without a word.
        self._compiled = getattr(session, "_sess", session)

    def run(self, feeds: Mapping[str, np.ndarray], *, bucket: str) -> dict[str, np.ndarray]:
        """Run `feeds`, which hold exactly the session's inputs; every output by name."""
        compiled = self._compiled
        if compiled is None:
            raise BackendError("the session is closed")
        try:
            return dict(zip(self._outputs, compiled.run(self._outputs, feeds, None)))  # noqa: B905 (`strict` is slower)
        except Exception as error:
            raise _translated(error, f"{bucket} failed") from error

    def bind(
        self, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray], *, bucket: str
    ) -> Callable[[], None]:
        """A run over contiguous arrays that stay, read and written in place each time it is called.

        The same memory may be an input and an output: a cache. The caller keeps the arrays.
        """
        if self._session is None:
            raise BackendError("the session is closed")
        session, binding = self._session, self._session.io_binding()
        arrays = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in {**inputs, **outputs}.items()}
        for name in inputs:
            binding.bind_ortvalue_input(name, arrays[name])
        for name in outputs:
            binding.bind_ortvalue_output(name, arrays[name])

        def run() -> None:
            try:
                session.run_with_iobinding(binding)
            except Exception as error:
                raise _translated(error, f"{bucket} failed") from error

        return run

    def close(self) -> None:
        """Give everything back."""
        self._session = self._compiled = None


def _require_provider(backend: BackendName) -> None:
    if PROVIDERS[backend] not in ort.get_available_providers():
        raise BackendError(
            f"this build of onnxruntime ({ort.__version__}) has no {PROVIDERS[backend]}",
            hint=None if backend == "onnxruntime-cpu" else "pip install 'ctx-export[cuda]'",
        )


def session_options(threads: int) -> ort.SessionOptions:
    """The options of every session.

    Threads do not spin while they wait: it gains a few percent on an idle machine and doubles the time on a busy one.
    Graphs come out of the build in the form that runs fastest; more than basic optimisation makes them slower (it
    fuses SkipLayerNormalization).
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _translated(error: Exception, what: str) -> CtxError:
    """ONNX Runtime's error as ours, on one line; its text need not be UTF-8."""
    text = "its message can't be decoded" if isinstance(error, UnicodeError) else str(error)
    line = " ".join(text.encode("utf-8", "replace").decode().split())[:500]
    if isinstance(error, MemoryError) or "allocate" in line or "bad_alloc" in line:
        return MemoryBudgetError(f"{what}: no memory left ({line})", hint="run shorter inputs or smaller batches")
    if _BAD_VALUES in line:
        return InputError(f"{what} on the values of an input: {line}", hint="are all token ids in the vocabulary?")
    return BackendError(f"{what}: {line}")
