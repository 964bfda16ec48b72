"""TensorRT, classic and RTX: one engine, a lazily made execution context for each of its optimization profiles.

Contexts share the engine's weights, the buffers of inputs and outputs, and one block of scratch memory as large as the
largest context in use needs: a session runs one batch at a time, so that no two need it at once.
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Mapping
from types import ModuleType

import numpy as np

from ctx_runtime.backends.cuda import DeviceMemory, compute_capability
from ctx_runtime.backends.tensorrt_cache import KernelCache
from ctx_runtime.backends.tensorrt_library import EngineBackend, Native, load_library
from ctx_runtime.bundle import Bundle
from ctx_runtime.errors import BackendError, MissingExtraError
from ctx_runtime.manifest import BucketRecord, EngineRecord

_SCRATCH = "scratch memory"


def open_engine(bundle: Bundle, bucket: BucketRecord, backend: EngineBackend) -> TrtSession:
    """Open the first engine of `bundle` that serves `bucket` on this device.

    Raises:
        BackendError: no engine fits this device and library, with the reasons; or the library refuses it.
        MissingExtraError: the library, or `cuda-bindings`, is not installed.
    """
    trt = load_library(backend)
    capability = compute_capability()
    reasons = []
    for record in bundle.manifest.engines_for(backend, bucket.name):
        reason = misfit(record, trt.__version__, capability)
        if reason is None:
            return TrtSession(bundle, record, trt)
        reasons.append(reason)
    raise BackendError("; ".join(reasons), hint="build one here: ctx-export engines BUNDLE --target " + _here(backend))


def misfit(record: EngineRecord, library_version: str, capability: str) -> str | None:
    """Why an engine can't run with this version of its library on an architecture such as `sm89`; None if it can."""
    digits = 1 if "version-compatible" in record.targets else None
    built, present = record.library_version.split(".")[:digits], library_version.split(".")[:digits]
    if built != present:
        return f"the engine is for {record.backend} {record.library_version}, this is {library_version}"
    ampere_or_later = "ampere-plus" in record.targets and int(capability.removeprefix("sm")) >= 80
    if capability not in record.targets and not ampere_or_later:
        return f"the engine is for {', '.join(record.targets)}, this device is {capability}"
    return None


def misfit_here(record: EngineRecord) -> str | None:
    """Why an engine can't run on this machine, as far as it is known before it is loaded; None if it can."""
    try:
        return misfit(record, load_library(record.backend).__version__, compute_capability())
    except (BackendError, MissingExtraError) as error:
        return str(error)


class _ErrorLog:
    """What the library said went wrong since it was last looked at; `logger` is what the library takes."""

    def __init__(self, trt: ModuleType) -> None:
        self.lines: list[str] = []
        worst, log = trt.ILogger.Severity.ERROR, self

        class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
            def log(self, severity: Native, message: str) -> None:
                if severity <= worst:
                    log.lines.append(message)

        self.logger = Logger()


def _within(shape: tuple[int, ...], bounds: tuple[tuple[int, ...], tuple[int, ...]]) -> bool:
    low, high = bounds
    return len(shape) == len(low) and all(a <= size <= b for a, size, b in zip(low, shape, high, strict=True))


def _here(backend: EngineBackend) -> str:
    return "rtx:current" if backend == "tensorrt-rtx" else "trt:current"


class TrtSession:
    """An engine on the current device.

    Args:
        bundle: a verified bundle: an engine is native code, and only its hash says that it is the one that was built.
        record: the engine.
        trt: the library's module.

    Raises:
        BackendError: the library refuses the engine.
        MemoryBudgetError: the device has no memory left.
    """

    def __init__(self, bundle: Bundle, record: EngineRecord, trt: ModuleType) -> None:
        self.backend: EngineBackend = record.backend
        self._trt = trt
        self._record = record
        self._log = _ErrorLog(trt)
        self._lock = threading.Lock()
        self._memory = DeviceMemory()
        self._engine = self._deserialize(bundle)
        self._kernels = KernelCache(bundle, record, trt) if record.backend == "tensorrt-rtx" else None
        self._contexts: dict[int, Native] = {}
        modes = {name: self._engine.get_tensor_mode(name) for name in self._names()}
        self.inputs = frozenset(name for name, mode in modes.items() if mode == trt.TensorIOMode.INPUT)
        self._outputs = [name for name in modes if name not in self.inputs]
        self._engine_bytes = bundle.path(record.file).stat().st_size

    @property
    def resident_bytes(self) -> int:
        """The engine and the buffers on the device."""
        return self._engine_bytes + self._memory.total_bytes

    def run(self, feeds: Mapping[str, np.ndarray], *, bucket: str) -> dict[str, np.ndarray]:
        """Run `feeds`, which hold exactly the session's inputs, in an optimization profile that takes their shapes.

        That of `bucket` comes first. A row that a memory budget moved there from a shorter bucket runs in the profile
        of the shorter one.
        """
        with self._lock:
            if self._engine is None:
                raise BackendError("the session is closed")
            arrays = {name: np.ascontiguousarray(feeds[name]) for name in self.inputs}  # stay until they are copied
            index = self._profile_for(arrays, bucket)
            context = self._contexts.get(index) or self._new_context(index)
            for name, array in arrays.items():
                self._bind_input(context, name, array, bucket)
            outputs = {name: self._bind_output(context, name, bucket) for name in self._outputs}
            self._bind_scratch(context)
            self._require(context.execute_async_v3(self._memory.stream), f"{bucket} failed")
            for name, array in outputs.items():
                self._memory.download(name, array)
            self._memory.wait()
        return outputs

    def close(self) -> None:
        """Keep the compiled kernels for the next start, and give the device's memory back."""
        with self._lock:
            if self._kernels is not None:
                self._kernels.save()
            self._contexts.clear()
            self._kernels = self._engine = None
            self._memory.free()

    def _deserialize(self, bundle: Bundle) -> Native:
        """The engine, from a mapped file: the host needs no copy of it."""
        runtime = self._trt.Runtime(self._log.logger)
        if "version-compatible" in self._record.targets:
            runtime.engine_host_code_allowed = True
        with bundle.path(self._record.file).open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            if self.backend == "tensorrt-rtx":
                validity, diagnostics = runtime.get_engine_validity(data)
                if validity == self._trt.EngineValidity.INVALID:
                    raise BackendError(f"the library finds the engine invalid: {self._diagnosis(diagnostics)}")
            engine = runtime.deserialize_cuda_engine(data)
        self._require(engine is not None, f"can't load {self._record.file}")
        if self._record.stripped:
            self._refit(engine, bundle)
        return engine

    def _refit(self, engine: Native, bundle: Bundle) -> None:
        """Put the weights of the graph that the engine was built from into it."""
        served = [bucket for bucket in bundle.manifest.buckets if bucket.name in self._record.optimization_profiles]
        graph = bundle.path(served[-1].graph)
        refitter = self._trt.Refitter(engine, self._log.logger)
        parser = self._trt.OnnxParserRefitter(refitter, self._log.logger)
        done = parser.refit_from_file(str(graph)) and refitter.refit_cuda_engine()
        self._require(done, f"the weights of {graph.name} can't be put into {self._record.file}")

    def _diagnosis(self, bits: int) -> str:
        members = self._trt.EngineInvalidityDiagnostics.__members__.items()
        names = [name.lower().replace("_", " ") for name, value in members if int(value) & bits]
        return ", ".join(names) or (self._log.lines or ["no reason given"])[0]

    def _names(self) -> list[str]:
        return [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]

    def _profile_for(self, arrays: Mapping[str, np.ndarray], bucket: str) -> int:
        """The index of the bucket's optimization profile, or of the first other one, that takes every array."""
        own = self._record.optimization_profiles.get(bucket)
        if own is None:
            raise BackendError(f"{self._record.file} has no optimization profile for {bucket}")
        others = sorted(set(self._record.optimization_profiles.values()) - {own})
        for index in (own, *others):
            if all(_within(array.shape, self._bounds(name, index)) for name, array in arrays.items()):
                return index
        name, array = next(item for item in arrays.items() if not _within(item[1].shape, self._bounds(item[0], own)))
        low, high = self._bounds(name, own)
        raise BackendError(
            f"{bucket}: the engine takes {name!r} from {list(low)} to {list(high)}, got {list(array.shape)}"
        )

    def _bounds(self, name: str, index: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The smallest and the largest shape that an optimization profile takes for an input."""
        low, _, high = self._engine.get_tensor_profile_shape(name, index)
        return tuple(low), tuple(high)

    def _new_context(self, index: int) -> Native:
        """The execution context in the optimization profile of that index."""
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(self._trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if self._kernels is not None:
            self._kernels.attach(config)
            if self._is_fixed(index):
                config.cuda_graph_strategy = self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        context = self._engine.create_execution_context(runtime_config=config)
        self._require(context is not None, f"no execution context for optimization profile {index}")
        chosen = context.set_optimization_profile_async(index, self._memory.stream)
        self._require(chosen, f"optimization profile {index} can't be chosen")
        self._memory.wait()
        self._contexts[index] = context
        return context

    def _is_fixed(self, index: int) -> bool:
        """Whether every input has one shape only, so that a run can be captured once and replayed."""
        return all(low == high for low, high in (self._bounds(name, index) for name in self.inputs))

    def _bind_input(self, context: Native, name: str, array: np.ndarray, bucket: str) -> None:
        dtype = np.dtype(self._trt.nptype(self._engine.get_tensor_dtype(name)))
        if array.dtype != dtype:
            raise BackendError(f"{bucket}: the engine takes {name!r} as {dtype}, got {array.dtype}")
        self._require(context.set_input_shape(name, array.shape), f"{bucket}: shape of {name!r} refused")
        self._require(context.set_tensor_address(name, self._memory.upload(name, array)), f"{name!r} can't be bound")

    def _bind_output(self, context: Native, name: str, bucket: str) -> np.ndarray:
        """An array for the output, in the shape that the bound inputs give it, and a buffer on the device."""
        shape = tuple(context.get_tensor_shape(name))
        if -1 in shape:
            raise BackendError(f"{bucket}: the shape of {name!r} depends on data: {list(shape)}")
        array = np.empty(shape, np.dtype(self._trt.nptype(self._engine.get_tensor_dtype(name))))
        address = self._memory.reserve(name, array.nbytes)
        self._require(context.set_tensor_address(name, address), f"{name!r} can't be bound")
        return array

    def _bind_scratch(self, context: Native) -> None:
        """Give the context the scratch memory that the bound shapes need."""
        size = context.update_device_memory_size_for_shapes()
        context.set_device_memory(self._memory.reserve(_SCRATCH, size), size)

    def _require(self, success: bool, what: str) -> None:
        if not success:
            lines, self._log.lines = self._log.lines, []
            raise BackendError(f"{what}: {' '.join(lines[0].split())[:300]}" if lines else what)
