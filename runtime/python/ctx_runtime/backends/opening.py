"""Opens the session that serves a bucket on a backend."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Literal, get_args

from ctx_runtime.backends import Session
from ctx_runtime.bundle import Bundle
from ctx_runtime.errors import BackendError
from ctx_runtime.manifest import BucketRecord
from ctx_runtime.parity import Form
from ctx_runtime.resource_profile import BackendName, ShareWeights

FusionGraph = Literal["segment", "fuse", "finish"]
GraphForm = Form | FusionGraph
"""Which graph a session runs: a form of a bucket's own, or one of the fusion, as the longest bucket runs."""

_MAPPED_BYTES = 8 << 20
"""Private memory of a session whose weights are mapped; measured on MiniLM."""
_COPIED_SHARE = 1.5
"""Private memory of a session that repacks its weights, as a share of the weight file; measured on MiniLM."""


def session_key(bundle: Bundle, bucket: BucketRecord, form: GraphForm, backend: BackendName) -> Hashable:
    """Buckets with the same key share one session.

    On ONNX Runtime that is the network, its form and the threads; on TensorRT the engine file.
    """
    if backend in ("tensorrt", "tensorrt-rtx") and form not in get_args(FusionGraph):
        return backend, tuple(engine.file for engine in bundle.manifest.engines_for(backend, bucket.name))
    return backend, bucket.network, bucket.threads, form


def open_session(
    bundle: Bundle,
    bucket: BucketRecord,
    form: GraphForm,
    backend: BackendName,
    *,
    share_weights: ShareWeights,
    on_fallback: Callable[[str], None],
) -> Session:
    """Open what serves `bucket` in `form` on `backend`; an engine always takes the mask.

    The graphs of a fusion run on ONNX Runtime alone, without the TensorRT-RTX plug-in. `on_fallback` is told why
    weights are not shared where they should be.

    Raises:
        BackendError: the backend is not there, or refuses the graph or the engine.
        MissingExtraError: its package is not installed.
        MemoryBudgetError: there is not enough memory to open it.
    """
    if form in get_args(FusionGraph) and backend in ("tensorrt", "tensorrt-rtx", "onnxruntime-tensorrt-rtx"):
        raise BackendError(f"{backend} runs no graphs of a fusion")
    if backend in ("tensorrt", "tensorrt-rtx"):
        if not bundle.manifest.engines_for(backend, bucket.name):
            raise BackendError(f"the bundle has no {backend} engine for {bucket.name}")
        from ctx_runtime.backends.tensorrt import open_engine  # noqa: PLC0415 (its library is optional)

        return open_engine(bundle, bucket, backend)
    return _open_graph(bundle, bucket, form, backend, share_weights, on_fallback)


def _open_graph(
    bundle: Bundle,
    bucket: BucketRecord,
    form: GraphForm,
    backend: BackendName,
    share_weights: ShareWeights,
    on_fallback: Callable[[str], None],
) -> Session:
    from ctx_runtime.backends.onnxruntime import OrtSession  # noqa: PLC0415 (optional)
    from ctx_runtime.backends.prepacked import prepacked_graph  # noqa: PLC0415

    graph = _graph_of_network(bundle, bucket, form)
    if share_weights == "mmap" and backend == "onnxruntime-cpu" and bundle.manifest.weights:
        try:
            path = prepacked_graph(bundle, graph)
            return OrtSession(path, threads=bucket.threads, resident_bytes=_MAPPED_BYTES, prepacked=True)
        except BackendError as error:
            on_fallback(f"weights are not shared: {error}")
    weights = bundle.path(bundle.manifest.weights).stat().st_size if bundle.manifest.weights else 0
    copied = _MAPPED_BYTES + int(weights * _COPIED_SHARE)
    plugin = _rtx_options(bundle, bucket, form, graph) if backend == "onnxruntime-tensorrt-rtx" else None
    return OrtSession(
        bundle.path(graph), backend=backend, threads=bucket.threads, resident_bytes=copied, provider_options=plugin
    )


def _rtx_options(bundle: Bundle, bucket: BucketRecord, form: GraphForm, graph: str) -> dict[str, str]:
    """The options of the TensorRT-RTX plug-in for the session that serves `bucket` and all that share its key."""
    from ctx_runtime.backends.rtx_plugin import rtx_options  # noqa: PLC0415 (optional)

    manifest = bundle.manifest
    served = [b for b in manifest.buckets if (b.network, b.threads) == (bucket.network, bucket.threads)]
    inputs = [spec for spec in manifest.inputs if form == "masked" or spec.role != "mask"]
    return rtx_options(bundle, graph, served, inputs)


def _graph_of_network(bundle: Bundle, bucket: BucketRecord, form: GraphForm) -> str:
    """The graph of the largest bucket with the same network: it holds the tables of all lengths."""
    fusion = bundle.manifest.fusion
    if fusion is not None and form in get_args(FusionGraph):
        return str(getattr(fusion, form))
    largest = [other for other in bundle.manifest.buckets if other.network == bucket.network][-1]
    graph = largest.graph if form == "masked" else largest.unmasked_graph
    if graph is None:
        raise BackendError(f"{largest.name} has no {form} graph")
    return graph
