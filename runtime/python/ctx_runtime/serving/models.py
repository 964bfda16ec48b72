"""OpenAI's `/v1/models`, and the name that a request must give."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, HTTPException
from pydantic import BaseModel

from ctx_runtime.serving.failures import OpenAIFailure
from ctx_runtime.serving.service import Service, Serving

FAILURES: dict[int | str, dict[str, Any]] = {"4XX": {"model": OpenAIFailure}, "5XX": {"model": OpenAIFailure}}
"""What the document of the API says of errors below `/v1/`."""


class ModelCard(BaseModel):
    """The model that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "ctx-export"


class ModelList(BaseModel):
    """All models."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


router = APIRouter(responses=FAILURES)


@router.get("/models")
async def models(service: Serving) -> ModelList:
    """The one model that is served."""
    return ModelList(data=[ModelCard(id=service.name)])


def check_model(asked: str, service: Service) -> None:
    """Raise HTTPException unless a request is for the model that is served."""
    if asked != service.name:
        raise HTTPException(404, f"the model {asked!r} is not served here, {service.name!r} is")
