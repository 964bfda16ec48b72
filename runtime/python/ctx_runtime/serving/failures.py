"""What goes wrong -> a status and a body, in the form that the protocol of the path has."""

from __future__ import annotations

import math

from pydantic import BaseModel
from starlette.responses import JSONResponse

from ctx_runtime.errors import (
    BackendError,
    BundleError,
    CtxError,
    DeadlineError,
    InputError,
    MemoryBudgetError,
    MissingExtraError,
    OverloadError,
    QualityError,
    TimeBudgetError,
)

_STATUSES: tuple[tuple[type[CtxError], int], ...] = (
    (OverloadError, 503),
    (DeadlineError, 504),
    (MemoryBudgetError, 507),
    (InputError, 400),
    (QualityError, 400),
    (TimeBudgetError, 400),
    (BackendError, 500),
    (BundleError, 500),
    (MissingExtraError, 500),
    (CtxError, 503),  # the runtime is closed
)
_KINDS = {401: "authentication_error", 404: "not_found_error", 503: "overloaded_error"}


class V2Failure(BaseModel):
    """The body of an error of the Open Inference Protocol."""

    error: str


class OpenAIError(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class OpenAIFailure(BaseModel):
    """The body of an error of OpenAI's interface."""

    error: OpenAIError


def status_of(error: CtxError) -> int:
    """The HTTP status of an error: whose it is, and whether to try again."""
    return next(status for kind, status in _STATUSES if isinstance(error, kind))


def described(error: CtxError) -> str:
    """The error and its hint in one line; the hint of an overload is for who runs the server."""
    return f"{error}; {error.hint}" if error.hint and not isinstance(error, OverloadError) else str(error)


def openai_failure(status: int, message: str) -> OpenAIFailure:
    """The body of an error of OpenAI's interface; its type goes by the status."""
    kind = _KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
    return OpenAIFailure(error=OpenAIError(message=message, type=kind))


def failure(path: str, status: int, message: str, *, headers: dict[str, str] | None = None) -> JSONResponse:
    """The response of an error on `path`: OpenAI's below `/v1/`, the Open Inference Protocol's elsewhere."""
    body = openai_failure(status, message) if path.startswith("/v1/") else V2Failure(error=message)
    return JSONResponse(body.model_dump(), status, headers)


def failed(path: str, error: CtxError) -> JSONResponse:
    """The response of `error` on `path`; one of overload says when to come again."""
    headers = {"Retry-After": str(math.ceil(error.retry_after_s))} if isinstance(error, OverloadError) else None
    return failure(path, status_of(error), described(error), headers=headers)
