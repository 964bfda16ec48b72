"""OpenAI's `/v1/embeddings`, for bundles with one pooled vector for each text."""

from __future__ import annotations

import base64
import time
from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag
from starlette.concurrency import run_in_threadpool

from ctx_runtime.errors import InputError
from ctx_runtime.manifest import Manifest, OutputSpec
from ctx_runtime.serving.models import FAILURES, check_model
from ctx_runtime.serving.service import Service, Serving

_TASK = "feature-extraction"
_MOST_TEXTS = 2048
"""In one request, as at OpenAI."""
_Several = Field(min_length=1, max_length=_MOST_TEXTS)
TokenIds = Annotated[list[Annotated[int, Field(ge=0, lt=1 << 31)]], Field(min_length=1)]


def _kind(given: object) -> str:
    """Which of the forms of `input` a value is meant to be, so that an error is about that one."""
    if not isinstance(given, list):
        return "text"
    kinds = {int: "ids", list: "lists of ids"}
    return kinds.get(type(given[0]), "texts") if given else "texts"


Texts = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[TokenIds, Tag("ids")]
    | Annotated[list[str], _Several, Tag("texts")]
    | Annotated[list[TokenIds], _Several, Tag("lists of ids")],
    Discriminator(_kind),
]
"""A text or token ids, one or several."""


class EmbeddingRequest(BaseModel):
    """Texts or token ids, one or several."""

    model_config = ConfigDict(extra="forbid")

    model: str
    input: Texts
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = None


class Embedding(BaseModel):
    """The vector of one text: numbers, or the base64 of little-endian float32."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    """Tokens that were run, those that frame a text included."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingResponse(BaseModel):
    """The vectors in the order of the texts."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


router = APIRouter(responses=FAILURES)


def pooled_output(manifest: Manifest) -> OutputSpec | None:
    """The output that is one vector of a whole text, `(batch, size)`; None for a bundle that makes no embeddings."""
    pooled = [spec for spec in manifest.outputs if spec.length_axis is None and len(spec.shape) == 2]
    takes_tokens = any(spec.role == "tokens" for spec in manifest.inputs)
    if manifest.task != _TASK or not takes_tokens or not pooled:
        return None
    return next((spec for spec in pooled if spec.normalized), pooled[0])


@router.post("/embeddings")
async def embed(asked: EmbeddingRequest, service: Serving) -> EmbeddingResponse:
    """The embeddings of texts of any length."""
    started = time.perf_counter()
    check_model(asked.model, service)
    output = pooled_output(service.runtime.bundle.manifest)
    assert output is not None  # noqa: S101 (the endpoint is there for bundles that have one)
    if asked.dimensions not in (None, output.shape[1]):
        raise InputError(f"the embeddings have {output.shape[1]} dimensions, not {asked.dimensions}")
    rows = await run_in_threadpool(_rows, asked, service)
    results = await service.run(rows)
    dispatch = [result.dispatch[0] for result in results]
    tokens = sum(row.length for row in dispatch)
    longest = max(dispatch, key=lambda row: row.length)
    service.metrics.observe("embeddings", longest.bucket, time.perf_counter() - started)
    vectors = [result.outputs[output.name].astype("<f4") for result in results]
    return EmbeddingResponse(
        data=[Embedding(index=index, embedding=_written(vector, asked)) for index, vector in enumerate(vectors)],
        model=service.name,
        usage=EmbeddingUsage(prompt_tokens=tokens, total_tokens=tokens),
    )


def _rows(asked: EmbeddingRequest, service: Service) -> list[dict[str, np.ndarray]]:
    """The inputs `(length,)` of each text."""
    given = asked.input
    texts = [given] if isinstance(given, str) or isinstance(given[0], int) else given
    tokens = next(spec for spec in service.runtime.bundle.manifest.inputs if spec.role == "tokens")
    return [
        service.tokenizer.encode(text) if isinstance(text, str) else {tokens.name: np.array(text, tokens.dtype)}
        for text in texts
    ]


def _written(vector: np.ndarray, asked: EmbeddingRequest) -> list[float] | str:
    if asked.encoding_format == "base64":
        return base64.b64encode(vector.tobytes()).decode()
    numbers: list[float] = vector.tolist()
    return numbers
