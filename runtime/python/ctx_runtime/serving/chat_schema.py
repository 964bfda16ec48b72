"""What `/v1/chat/completions` takes and gives. A field that would change an answer and is not known is refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ctx_runtime.generation.chat import Message
from ctx_runtime.generation.row import FinishReason
from ctx_runtime.generation.settings import Options

Ended = Literal["stop", "length"]
_ENDED: dict[FinishReason, Ended] = {"eos": "stop", "stop": "stop", "length": "length", "cancelled": "stop"}


class TextPart(BaseModel):
    """A part of a message."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """A message; what else it has is for the chat template."""

    model_config = ConfigDict(extra="allow")

    role: str
    content: str | list[TextPart]

    def for_template(self) -> Message:
        """With its parts as one text."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return self.model_dump() | {"content": content}


class StreamOptions(BaseModel):
    """What a stream gives beside the answer."""

    model_config = ConfigDict(extra="forbid")

    include_usage: bool = False


class ChatRequest(BaseModel):
    """A conversation, and how to answer it.

    `top_k`, `min_p` and `repetition_penalty` go beyond OpenAI's fields; `n` and the two penalties may only be neutral.
    """

    model_config = ConfigDict(extra="forbid")

    model: str
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] = 1.0
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] | None = None
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    n: Literal[1] = 1
    presence_penalty: Literal[0] = 0
    frequency_penalty: Literal[0] = 0
    user: str | None = None

    def options(self) -> Options:
        """The keywords of `Runtime.generate`."""
        return Options(
            max_new_tokens=self.max_completion_tokens or self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            seed=self.seed,
            stop=self.stop or (),
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
        )


class TopLogprob(BaseModel):
    """A token that was likely, as the tokenizer writes it, and the natural logarithm of its probability."""

    token: str
    logprob: float
    bytes: list[int] | None = None


class TokenLogprob(TopLogprob):
    """The token that was taken, and the likeliest ones."""

    top_logprobs: list[TopLogprob]


class Logprobs(BaseModel):
    """Of the tokens of an answer."""

    content: list[TokenLogprob]


class ChatUsage(BaseModel):
    """Tokens of the prompt and of the answer."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Answer(BaseModel):
    """The answer as a message."""

    role: Literal["assistant"] = "assistant"
    content: str


class Choice(BaseModel):
    """The one answer."""

    index: int = 0
    message: Answer
    logprobs: Logprobs | None
    finish_reason: Ended


class ChatCompletion(BaseModel):
    """A whole answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: ChatUsage


def ended(reason: FinishReason) -> Ended:
    """OpenAI's word for what ended an answer."""
    return _ENDED[reason]


def chunk(
    head: dict[str, Any], delta: dict[str, str], *, logprobs: Logprobs | None = None, finish_reason: Ended | None = None
) -> dict[str, Any]:
    """One event of a stream: `head` is its id, time and model, `delta` what is new of the message."""
    stated = None if logprobs is None else logprobs.model_dump()
    choice = {"index": 0, "delta": delta, "logprobs": stated, "finish_reason": finish_reason}
    return head | {"object": "chat.completion.chunk", "choices": [choice]}
