"""OpenAI's `/v1/chat/completions`, whole or as it comes, for bundles that generate."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool

from ctx_runtime.errors import CtxError
from ctx_runtime.generation.generation import Generation
from ctx_runtime.generation.row import Token
from ctx_runtime.serving.chat_schema import (
    Answer,
    ChatCompletion,
    ChatRequest,
    ChatUsage,
    Choice,
    Logprobs,
    TokenLogprob,
    TopLogprob,
    chunk,
    ended,
)
from ctx_runtime.serving.failures import described, openai_failure, status_of
from ctx_runtime.serving.models import FAILURES, check_model
from ctx_runtime.serving.service import Service, Serving
from ctx_runtime.text import Tokenizer

router = APIRouter(responses=FAILURES)


async def _begun(asked: ChatRequest, service: Serving) -> AsyncIterator[Generation]:
    """The generation of a request, which has its turn; given up once the response has gone, or the caller has."""
    check_model(asked.model, service)
    messages = [message.for_template() for message in asked.messages]
    generation = await run_in_threadpool(lambda: service.runtime.generate(messages, **asked.options()))
    async with service.slots.turn():
        try:
            yield generation
        finally:
            await run_in_threadpool(generation.cancel)


@router.post(
    "/chat/completions",
    response_model=ChatCompletion,
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
)
async def complete(
    asked: ChatRequest, generation: Annotated[Generation, Depends(_begun)], service: Serving
) -> ChatCompletion | Response:
    """The answer to a conversation, or a stream of it."""
    started = time.perf_counter()
    head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": service.name}
    if asked.stream:
        events = _events(asked, generation, service, head, started)
        return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
    tokens = [token async for token in iterate_in_threadpool(generation)]
    usage = _finish(generation, service, started)
    answer = Answer(content=generation.text)
    logprobs = _logprobs(tokens, service.tokenizer) if asked.logprobs else None
    choice = Choice(message=answer, logprobs=logprobs, finish_reason=ended(generation.finish_reason))
    return ChatCompletion(**head, choices=[choice], usage=usage)  # type: ignore[arg-type]


async def _events(
    asked: ChatRequest, generation: Generation, service: Service, head: dict[str, Any], started: float
) -> AsyncIterator[str]:
    """Server-sent events: the role, what is new of the text as it comes, the end, the usage if it is wanted."""
    yield _event(chunk(head, {"role": "assistant", "content": ""}))
    try:
        async for token in iterate_in_threadpool(generation):
            if token.text or asked.logprobs:
                logprobs = _logprobs([token], service.tokenizer) if asked.logprobs else None
                yield _event(chunk(head, {"content": token.text}, logprobs=logprobs))
    except CtxError as error:
        yield _event(openai_failure(status_of(error), described(error)).model_dump())
        return
    usage = _finish(generation, service, started)
    yield _event(chunk(head, {}, finish_reason=ended(generation.finish_reason)))
    if asked.stream_options is not None and asked.stream_options.include_usage:
        yield _event(chunk(head, {}) | {"choices": [], "usage": usage.model_dump()})
    yield "data: [DONE]\n\n"


def _event(value: object) -> str:
    return f"data: {json.dumps(value)}\n\n"


def _finish(generation: Generation, service: Service, started: float) -> ChatUsage:
    """Count an answer that is whole."""
    ran = generation.dispatch
    service.metrics.observe("chat", ran.buckets[-1], time.perf_counter() - started)
    tokens = ran.prompt_tokens + ran.new_tokens
    return ChatUsage(prompt_tokens=ran.prompt_tokens, completion_tokens=ran.new_tokens, total_tokens=tokens)


def _logprobs(tokens: Sequence[Token], tokenizer: Tokenizer) -> Logprobs:
    content = []
    for token in tokens:
        assert token.logprob is not None  # noqa: S101 (they are asked for)
        top = [TopLogprob(token=tokenizer.token(id_), logprob=logprob) for id_, logprob in token.top]
        content.append(TokenLogprob(token=tokenizer.token(token.id), logprob=token.logprob, top_logprobs=top))
    return Logprobs(content=content)
