"""What the Open Inference Protocol tells of the server and its model: health, metadata, configuration, statistics."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from pydantic import BaseModel

from ctx_runtime import __version__
from ctx_runtime.manifest import TensorSpec
from ctx_runtime.serving.inference import VERSION
from ctx_runtime.serving.service import Serving
from ctx_runtime.serving.tensors import Datatype, datatype_of

_PLATFORM = "ctx-runtime"
_EXTENSIONS = ["binary_tensor_data", "model_configuration", "model_repository", "statistics"]


class ServerMetadata(BaseModel):
    """What serves, and what it can beyond the protocol."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(BaseModel):
    """An input or output; -1 is an axis of any size: the batch, or the length."""

    name: str
    datatype: Datatype
    shape: list[int]


class ModelMetadata(BaseModel):
    """What a model takes and gives."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ModelIndex(BaseModel):
    """One model of the repository."""

    name: str
    version: str
    state: str
    reason: str


server_router = APIRouter(prefix="/v2")
model_router = APIRouter()


@server_router.get("")
async def server() -> ServerMetadata:
    """What serves, and what it can."""
    return ServerMetadata(name=_PLATFORM, version=__version__, extensions=_EXTENSIONS)


@server_router.get("/health/live")
async def live() -> Response:
    """The server answers."""
    return Response()


@server_router.get("/health/ready", responses={503: {"description": "It warms up, or shuts down."}})
@model_router.get("/ready", responses={503: {"description": "It warms up, or shuts down."}})
async def ready(service: Serving) -> Response:
    """Requests are accepted, and the graphs of the buckets are open, as far as the session budget goes."""
    return Response(status_code=200 if service.gate.ready else 503)


@server_router.post("/repository/index")
async def index(service: Serving) -> list[ModelIndex]:
    """The one model that is served."""
    state, reason = ("READY", "") if service.gate.ready else ("LOADING", "its graphs are being opened")
    return [ModelIndex(name=service.name, version=VERSION, state=state, reason=reason)]


@model_router.get("")
async def metadata(service: Serving) -> ModelMetadata:
    """What the model takes and gives."""
    manifest = service.runtime.bundle.manifest
    return ModelMetadata(
        name=service.name,
        versions=[VERSION],
        platform=_PLATFORM,
        inputs=[_tensor(spec) for spec in manifest.inputs],
        outputs=[_tensor(spec) for spec in manifest.outputs],
    )


@model_router.get("/config")
async def config(service: Serving) -> dict[str, Any]:
    """The model as Triton's model configuration describes it; a larger batch runs in parts."""
    manifest = service.runtime.bundle.manifest
    return {
        "name": service.name,
        "platform": "",
        "backend": _PLATFORM,
        "max_batch_size": min(bucket.batch.max for bucket in manifest.buckets),
        "input": [_configured(spec) for spec in manifest.inputs],
        "output": [_configured(spec) for spec in manifest.outputs],
    }


@model_router.get("/stats")
async def stats(service: Serving) -> dict[str, Any]:
    """How much ran since the start, in Triton's form."""
    buckets = service.runtime.stats().buckets.values()
    rows, runs = sum(bucket.rows for bucket in buckets), sum(bucket.runs for bucket in buckets)
    computed = {"count": runs, "ns": int(1e9 * sum(bucket.seconds for bucket in buckets))}
    counted = {"inference_count": rows, "execution_count": runs, "inference_stats": {"compute_infer": computed}}
    return {"model_stats": [{"name": service.name, "version": VERSION} | counted]}


def _tensor(spec: TensorSpec) -> TensorMetadata:
    shape = [dim if isinstance(dim, int) else -1 for dim in spec.shape]
    return TensorMetadata(name=spec.name, datatype=datatype_of(spec.dtype), shape=shape)


def _configured(spec: TensorSpec) -> dict[str, Any]:
    """Without the batch axis, which Triton adds."""
    tensor = _tensor(spec)
    return {"name": tensor.name, "data_type": f"TYPE_{tensor.datatype}", "dims": tensor.shape[1:]}
