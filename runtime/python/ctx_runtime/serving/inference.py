"""`infer` of the Open Inference Protocol, with JSON and binary tensors, compressed as the caller asks for."""

from __future__ import annotations

import gzip
import time
import zlib
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from pydantic import BaseModel, Field, ValidationError
from starlette.concurrency import run_in_threadpool

from ctx_runtime.errors import InputError, first_problem
from ctx_runtime.results import Result
from ctx_runtime.serving.failures import V2Failure
from ctx_runtime.serving.service import Serving
from ctx_runtime.serving.tensors import InputTensor, OutputTensor, read_inputs, write_output

VERSION = "1"
_JSON_LENGTH = "Inference-Header-Content-Length"
_LEVEL = 1
"""Of compression: numbers gain little from more."""


class RequestedParameters(BaseModel):
    """How an output is to be written; others are ignored."""

    binary_data: bool | None = None
    classification: int = 0


class RequestedOutput(BaseModel):
    """An output that is asked for."""

    name: str
    parameters: RequestedParameters = RequestedParameters()


class InferParameters(BaseModel):
    """What may be asked of a request; others are ignored.

    Attributes:
        binary_data_output: all outputs come as bytes.
        timeout: until it begins to run, in microseconds.
    """

    binary_data_output: bool = False
    timeout: Annotated[int, Field(ge=0)] | None = None


class InferRequest(BaseModel):
    """A request; without `outputs`, it is for all of them."""

    id: str | None = None
    inputs: Annotated[list[InputTensor], Field(min_length=1)]
    outputs: list[RequestedOutput] | None = None
    parameters: InferParameters = InferParameters()


class RanParameters(BaseModel):
    """How the rows ran, in order: their buckets, and why there."""

    buckets: str
    reasons: str


class InferResponse(BaseModel):
    """The answer to a request."""

    model_name: str
    model_version: str
    id: str | None = None
    parameters: RanParameters
    outputs: list[OutputTensor]


REQUEST_SCHEMA = InferRequest.model_json_schema(ref_template="#/components/schemas/{model}")
"""Of a request, with the parts it refers to as `$defs`: their place is among the components of the API's document."""
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/InferRequest"}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}

router = APIRouter()


@router.post(
    "/infer",
    response_class=Response,
    responses={200: {"model": InferResponse}, "4XX": {"model": V2Failure}, "5XX": {"model": V2Failure}},
    openapi_extra=_BODY,
)
async def infer(
    request: Request,
    service: Serving,
    json_length: Annotated[int | None, Header(alias=_JSON_LENGTH, ge=0)] = None,
    accepted: Annotated[str, Header(alias="Accept-Encoding")] = "",
) -> Response:
    """Run the inputs of one request; rows of any length."""
    started = time.perf_counter()
    body = await request.body()
    asked, arrays = await run_in_threadpool(_read, body, json_length)
    timeout = asked.parameters.timeout
    (result,) = await service.run([arrays], timeout and timeout / 1e6)
    response = await run_in_threadpool(_write, service.name, asked, result, accepted)
    longest = max(result.dispatch, key=lambda row: row.length)
    service.metrics.observe("infer", longest.bucket, time.perf_counter() - started)
    return response


def _read(body: bytes, json_length: int | None) -> tuple[InferRequest, dict[str, Any]]:
    """The request and its arrays; without a length, all of the body is JSON.

    Raises:
        InputError: not a request, or inputs that are not what it says.
    """
    if json_length is not None and json_length > len(body):
        raise InputError(f"{_JSON_LENGTH} is {json_length}, the body has {len(body)} bytes")
    end = len(body) if json_length is None else json_length
    try:
        asked = InferRequest.model_validate_json(body[:end])
    except ValidationError as error:
        raise InputError(f"not an inference request: {first_problem(error)}") from None
    return asked, read_inputs(asked.inputs, body[end:])


def _write(name: str, asked: InferRequest, result: Result, accepted: str) -> Response:
    """The response of a result.

    Raises:
        InputError: an output that the bundle does not have, or that can't be written as asked for.
    """
    tensors, pieces = [], []
    for output, binary in _wanted(asked, result):
        tensor, raw = write_output(output, result.outputs[output], binary=binary)
        tensors.append(tensor)
        pieces.append(raw)
    ran = RanParameters(
        buckets=", ".join(dict.fromkeys(row.bucket for row in result.dispatch)),
        reasons="; ".join(dict.fromkeys(row.reason for row in result.dispatch)),
    )
    answer = InferResponse(model_name=name, model_version=VERSION, id=asked.id, parameters=ran, outputs=tensors)
    stated = answer.model_dump_json(exclude_none=True).encode()
    if not any(pieces):
        return _compressed(stated, "application/json", {}, accepted)
    headers = {_JSON_LENGTH: str(len(stated))}
    return _compressed(b"".join((stated, *pieces)), "application/octet-stream", headers, accepted)


def _wanted(asked: InferRequest, result: Result) -> list[tuple[str, bool]]:
    """The outputs that are asked for, and whether each comes as bytes."""
    default = asked.parameters.binary_data_output
    if asked.outputs is None:
        return [(name, default) for name in result.outputs]
    for output in asked.outputs:
        if output.name not in result.outputs:
            raise InputError(f"unknown output {output.name!r}", hint=f"the bundle has {', '.join(result.outputs)}")
        if output.parameters.classification:
            raise InputError("outputs come as numbers, not as classes", hint="leave out `classification`")
    binary = [output.parameters.binary_data for output in asked.outputs]
    names = [output.name for output in asked.outputs]
    return [(name, default if one is None else one) for name, one in zip(names, binary, strict=True)]


def _compressed(body: bytes, media_type: str, headers: dict[str, str], accepted: str) -> Response:
    encodings = {part.split(";")[0].strip() for part in accepted.split(",")}
    if "gzip" in encodings:
        body, headers = gzip.compress(body, _LEVEL), headers | {"Content-Encoding": "gzip"}
    elif "deflate" in encodings:
        body, headers = zlib.compress(body, _LEVEL), headers | {"Content-Encoding": "deflate"}
    return Response(body, media_type=media_type, headers=headers)
