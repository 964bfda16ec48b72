"""The application: endpoints that fit the bundle, between them and the caller the key, the gate and the limits."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from ctx_runtime import __version__
from ctx_runtime.errors import CtxError
from ctx_runtime.resource_profile import Bytes
from ctx_runtime.runtime import Runtime
from ctx_runtime.serving import chat, embeddings, inference, metadata, models
from ctx_runtime.serving.admission import Admission, Gate, Keyed
from ctx_runtime.serving.bodies import Bodies
from ctx_runtime.serving.failures import failed, failure
from ctx_runtime.serving.metrics import Counted, Metrics
from ctx_runtime.serving.service import Service, Serving
from ctx_runtime.serving.slots import Slots
from ctx_runtime.text import Tokenizer


class Limits(BaseModel):
    """What one server takes.

    Attributes:
        max_requests: under way at once, from their headers to the end of their answer.
        max_body: bytes of a request, as it comes and decompressed.
        timeout: seconds that a request may wait until it begins to run.
        generations: texts that are generated at once.
        max_prompts: prompts that wait for their turn, at most.
    """

    model_config = ConfigDict(frozen=True)

    max_requests: Annotated[int, Field(ge=1)] = 256
    max_body: Bytes = 64 << 20
    timeout: Annotated[float, Field(gt=0, le=86400)] = 60.0
    generations: Annotated[int, Field(ge=1)] = 1
    max_prompts: Annotated[int, Field(ge=0)] = 64


def create_app(runtime: Runtime, gate: Gate, limits: Limits, *, api_key: str | None = None) -> FastAPI:
    """The ASGI application over an open runtime.

    Args:
        runtime: runs the bundle.
        gate: opened and closed by who runs the server.
        limits: what one server takes.
        api_key: what callers must give; None: nothing.
    """
    slots = Slots(running=limits.generations, waiting=limits.max_prompts, timeout_s=limits.timeout)
    metrics = Metrics(runtime, lambda: slots.waiting)
    middleware = [
        Middleware(Counted, metrics=metrics),
        *([] if api_key is None else [Middleware(Keyed, key=api_key)]),
        Middleware(Admission, gate=gate, most=limits.max_requests),
        Middleware(Bodies, max_bytes=limits.max_body),
    ]
    app = FastAPI(
        title="ctx-runtime", version=__version__, docs_url=None, redoc_url=None, middleware=middleware,
        exception_handlers=_HANDLERS,
    )  # fmt: skip
    app.state.service = Service(runtime, Tokenizer(runtime.bundle), gate, metrics, slots, limits.timeout)
    _add_endpoints(app, runtime)
    return app


def _add_endpoints(app: FastAPI, runtime: Runtime) -> None:
    """The endpoints that the bundle can answer; the model's name stands in the paths, so that they are all there is."""
    manifest = runtime.bundle.manifest
    app.include_router(metadata.server_router)
    for prefix in (f"/v2/models/{manifest.name}", f"/v2/models/{manifest.name}/versions/{inference.VERSION}"):
        app.include_router(metadata.model_router, prefix=prefix)
        if manifest.decoder is None:
            app.include_router(inference.router, prefix=prefix)
    app.include_router(models.router, prefix="/v1")
    if embeddings.pooled_output(manifest) is not None:
        app.include_router(embeddings.router, prefix="/v1")
    if manifest.decoder is not None:
        app.include_router(chat.router, prefix="/v1")
    app.get("/metrics", response_class=Response)(_metrics)
    _document(app)


def _document(app: FastAPI) -> None:
    """Complete the OpenAPI document: FastAPI does not know of bodies that are read by hand."""
    stated = dict(inference.REQUEST_SCHEMA)
    parts: dict[str, Any] = stated.pop("$defs")
    app.openapi()["components"]["schemas"] |= parts | {"InferRequest": stated}


async def _metrics(service: Serving) -> Response:
    """All metrics, for Prometheus."""
    return Response(service.metrics.page(), media_type=CONTENT_TYPE_LATEST)


async def _on_ctx_error(request: Request, error: CtxError) -> Response:
    return failed(request.url.path, error)


async def _on_invalid(request: Request, error: RequestValidationError) -> Response:
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"][1:])
    return failure(request.url.path, 400, f"{where or 'the body'}: {problem['msg']}")


async def _on_http(request: Request, error: HTTPException) -> Response:
    message = error.detail
    if error.status_code in (404, 405) and message in ("Not Found", "Method Not Allowed"):
        message = f"there is no {request.method} {request.url.path} here; GET /openapi.json lists what there is"
    return failure(request.url.path, error.status_code, message, headers=dict(error.headers or {}))


async def _on_defect(request: Request, error: Exception) -> Response:
    return failure(request.url.path, 500, f"the server failed: {type(error).__name__}")


_HANDLERS: dict[int | type[Exception], Callable[[Request, Any], Coroutine[Any, Any, Response]]] = {
    CtxError: _on_ctx_error,
    RequestValidationError: _on_invalid,
    HTTPException: _on_http,
    Exception: _on_defect,
}
