"""Messages -> the text of a prompt, by the chat template that a bundle carries."""

from __future__ import annotations

import datetime
import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from ctx_runtime.bundle import Bundle
from ctx_runtime.errors import BundleError, InputError, MissingExtraError
from ctx_runtime.text import Tokenizer

Message = Mapping[str, Any]
"""`{"role": "user", "content": "…"}`, and what else the template knows."""


class ChatTemplate:
    """The template of a bundle, compiled on first use. It runs in a sandbox: it comes with the bundle."""

    def __init__(self, bundle: Bundle, tokenizer: Tokenizer) -> None:
        self._bundle, self._tokenizer = bundle, tokenizer
        self._lock = threading.Lock()
        self._template: Any = None

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt that asks for the answer to `messages`.

        Raises:
            InputError: the bundle has no template, or the template refuses the messages.
            MissingExtraError: the package `jinja2` is not installed.
        """
        for message in messages:
            if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
                raise InputError(f"expected messages with a role and a content, got {message!r}")
        with self._lock:
            if self._template is None:
                self._template = self._compile()
        try:
            return str(self._template.render(messages=messages, add_generation_prompt=True, **self._special_tokens()))
        except InputError:
            raise
        except Exception as error:  # what a template does wrong has no common class
            raise InputError(f"the chat template can't render the messages: {error}") from error

    def _compile(self) -> Any:  # noqa: ANN401 (jinja2 is optional)
        decoder, name = self._bundle.manifest.decoder, self._bundle.manifest.name
        if decoder is None or decoder.chat_template is None:
            raise InputError(
                f"the bundle {name} has no chat template", hint="give the prompt as a text or as token ids"
            )
        try:
            from jinja2 import TemplateError  # noqa: PLC0415 (optional)
            from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: PLC0415
        except ImportError as error:
            raise MissingExtraError("jinja2", "chat", purpose="a chat template") from error
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _to_json
        environment.globals |= {"raise_exception": _refuse, "strftime_now": _now}
        try:
            return environment.from_string(self._bundle.path(decoder.chat_template).read_text(encoding="utf-8"))
        except (TemplateError, UnicodeDecodeError) as error:
            raise BundleError("reference", f"{decoder.chat_template} is not a template: {error}") from error

    def _special_tokens(self) -> dict[str, str]:
        decoder = self._bundle.manifest.decoder
        assert decoder is not None  # noqa: S101 (it has a template)
        ids = {"bos_token": decoder.bos_token_id, "eos_token": next(iter(decoder.eos_token_ids), None)}
        return {name: self._tokenizer.token(token) for name, token in ids.items() if token is not None}


def _to_json(value: object, indent: int | None = None) -> str:
    """Unlike jinja2's own filter, does not escape for HTML."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> NoReturn:
    raise InputError(f"the chat template refuses the messages: {message}")


def _now(form: str) -> str:
    return datetime.datetime.now().astimezone().strftime(form)
