"""The models that Triton gets from a bundle, and the configuration of each.

The router takes any length and answers as `Runtime.run` does. The others are for programs that know what they send,
ensembles and logic in the server: one for each network and form of its graph, and one for each TensorRT engine. They
pad and cut nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import onnx_ir as ir
from jinja2 import Environment, PackageLoader, StrictUndefined

from ctx_runtime.bundle import Bundle
from ctx_runtime.manifest import BucketRecord, DType, EngineRecord, InputSpec, TensorSpec
from ctx_runtime.triton import DISPATCH

ROUTER_BATCH = 64
"""Rows that the router takes at once, in one request or in several that wait; the runtime forms its own batches."""
_TYPES: Mapping[DType, str] = {
    "float32": "TYPE_FP32", "float16": "TYPE_FP16", "int64": "TYPE_INT64", "int32": "TYPE_INT32", "bool": "TYPE_BOOL",
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """An input or output in a model's configuration; `dims` are without the batch, which Triton counts apart."""

    name: str
    data_type: str
    dims: list[int]
    optional: bool = False


@dataclass(frozen=True)
class TritonModel:
    """A model of the repository, and what its configuration says.

    Attributes:
        serves: what it takes, in words.
        buckets: those whose lengths it takes.
        files: what a version of it holds beside the code of the router: names, and where they are in the bundle.
        profiles: TensorRT optimization profiles, all in one instance group. An instance picks among its own by the
            shapes of a request, but the server hands requests to instances without a look at shapes: with a profile a
            group, a request would meet one that it does not fit.
        threads: of one run on ONNX Runtime; 0 leaves it to ONNX Runtime.
    """

    name: str
    backend: Literal["python", "onnxruntime", "tensorrt"]
    serves: str
    buckets: list[str]
    max_batch_size: int
    inputs: list[Tensor]
    outputs: list[Tensor]
    kind: Literal["KIND_CPU", "KIND_GPU", "KIND_AUTO"]
    files: Mapping[str, Path] = field(default_factory=dict)
    profiles: tuple[int, ...] = ()
    threads: int = 0


def triton_models(bundle: Bundle) -> tuple[TritonModel, ...]:
    """The router first, then the graphs, then the engines that Triton's TensorRT backend can run."""
    engines = (_engine(bundle, engine) for engine in bundle.manifest.engines if misfit(engine) is None)
    return (_router(bundle), *_graphs(bundle), *engines)


def config_text(model: TritonModel) -> str:
    """The `config.pbtxt` of a model."""
    loader = PackageLoader("ctx_export", "templates")
    environment = Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True)  # noqa: S701 (no HTML)
    return str(environment.get_template("config.pbtxt.j2").render(model=model))


def misfit(engine: EngineRecord) -> str | None:
    """Why Triton's TensorRT backend can't run an engine, None if it can; the router may run it all the same."""
    if engine.backend != "tensorrt":
        return f"it is for {engine.backend}, which Triton has no backend for"
    return "it was built without weights, which only ctx-runtime puts in" if engine.stripped else None


def _router(bundle: Bundle) -> TritonModel:
    manifest = bundle.manifest
    return TritonModel(
        name=_name(bundle),
        backend="python",
        serves="any length",
        buckets=[bucket.name for bucket in manifest.buckets],
        max_batch_size=ROUTER_BATCH,
        inputs=[_tensor(spec) for spec in manifest.inputs],
        outputs=[*map(_tensor, manifest.outputs), Tensor(DISPATCH, "TYPE_STRING", [])],
        kind="KIND_CPU",
    )


def _graphs(bundle: Bundle) -> Iterator[TritonModel]:
    """One model for each form of each network: the graph of its longest bucket, which holds the tables of all."""
    manifest = bundle.manifest
    for longest in {bucket.network: bucket for bucket in manifest.buckets}.values():
        buckets = [bucket for bucket in manifest.buckets if bucket.network == longest.network]
        beside = {} if manifest.weights is None else {Path(manifest.weights).name: bundle.path(manifest.weights)}
        on_cpu = all(bucket.backends == ("onnxruntime-cpu",) for bucket in buckets)
        for form, graph in (("", longest.graph), ("unmasked", longest.unmasked_graph)):
            if graph is not None:
                yield TritonModel(
                    name=_name(bundle, longest.network, form),
                    backend="onnxruntime",
                    serves=f"up to {longest.max_length} tokens" + (", without padding" if form else ""),
                    buckets=[bucket.name for bucket in buckets],
                    max_batch_size=max(bucket.batch.max for bucket in buckets),
                    inputs=_inputs(bundle, graph),
                    outputs=[*map(_tensor, manifest.outputs)],
                    kind="KIND_CPU" if on_cpu else "KIND_AUTO",
                    files={"model.onnx": bundle.path(graph), **beside},
                    threads=longest.threads,
                )


def _engine(bundle: Bundle, engine: EngineRecord) -> TritonModel:
    """An engine with all its optimization profiles; a batch must fit each of them."""
    manifest = bundle.manifest
    buckets = [bucket for bucket in manifest.buckets if bucket.name in engine.optimization_profiles]
    return TritonModel(
        name=_name(bundle, *Path(engine.file).with_suffix("").parts[1:]),
        backend="tensorrt",
        serves=f"{_lengths(buckets)} tokens on {'+'.join(engine.targets)}, TensorRT {engine.library_version}",
        buckets=[bucket.name for bucket in buckets],
        max_batch_size=min(bucket.batch.max for bucket in buckets),
        inputs=_inputs(bundle, buckets[-1].graph),
        outputs=[*map(_tensor, manifest.outputs)],
        kind="KIND_GPU",
        files={"model.plan": bundle.path(engine.file)},
        profiles=tuple(sorted(engine.optimization_profiles.values())),
    )


def _inputs(bundle: Bundle, graph: str) -> list[Tensor]:
    """The inputs of a graph: some or all of the manifest's."""
    names = {value.name for value in ir.load(bundle.path(graph)).graph.inputs}
    return [Tensor(spec.name, _TYPES[spec.dtype], _dims(spec)) for spec in bundle.manifest.inputs if spec.name in names]


def _tensor(spec: TensorSpec) -> Tensor:
    """As the runtime takes or gives it: it makes the mask and segment ids where they are left out."""
    optional = isinstance(spec, InputSpec) and spec.role in ("mask", "segment-ids")
    return Tensor(spec.name, _TYPES[spec.dtype], _dims(spec), optional)


def _dims(spec: TensorSpec) -> list[int]:
    return [dim if isinstance(dim, int) else -1 for dim in spec.shape[1:]]


def _lengths(buckets: list[BucketRecord]) -> str:
    return f"{buckets[0].min_length}..{buckets[-1].max_length}"


def _name(bundle: Bundle, *parts: str) -> str:
    """The name of a model, which is its folder's too."""
    return re.sub(r"[^A-Za-z0-9_.+-]+", "-", "-".join([bundle.manifest.name, *filter(None, parts)]))
