"""`ctx-runtime generate` and `chat`: text from a causal language model, as it comes."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Iterator
from typing import cast

from ctx_runtime.errors import InputError
from ctx_runtime.generation.generation import Generation, GenerationDispatch
from ctx_runtime.generation.prompts import Prompt
from ctx_runtime.generation.settings import Options, Settings
from ctx_runtime.printing import print_json, print_line
from ctx_runtime.runtime import Runtime

AddCommand = Callable[[str, Callable[[argparse.Namespace], int], str, str], argparse.ArgumentParser]


def add_commands(add: AddCommand) -> None:
    """Add the commands; `add` takes a name, what runs it, a description and an example."""
    generate = add("generate", _generate, "Generate text from a prompt.", '--prompt "Call me" --max-new-tokens 20')
    source = generate.add_mutually_exclusive_group(required=True)
    source.add_argument("--prompt", action="append", help="a text; may be given more than once")
    source.add_argument("--ids", help="token ids, separated by commas")
    _add_options(generate)
    chat = add("chat", _chat, "Talk to a model: each line of stdin is a message.", "--temperature 0.7")
    chat.add_argument("--system", help="a message that comes before all others")
    _add_options(chat)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--max-new-tokens", type=int, help="tokens of an answer, at most")
    parser.add_argument("--temperature", type=float, help="0, the default, takes the likeliest token each time")
    parser.add_argument("--top-k", type=int, help="draw from this many of the likeliest tokens")
    parser.add_argument("--top-p", type=float, help="draw from the likeliest tokens that together are so probable")
    parser.add_argument(
        "--min-p", type=float, help="draw from tokens with this share of the likeliest one's probability"
    )
    parser.add_argument("--repetition-penalty", type=float, help="over 1 makes tokens less likely that came before")
    parser.add_argument("--seed", type=int, help="the same seed draws the same tokens")
    parser.add_argument("--stop", action="append", help="a text that ends the answer; may be given more than once")
    parser.add_argument(
        "--stop-id", type=int, action="append", dest="stop_ids", help="a token that ends the answer, likewise"
    )
    parser.add_argument("--logprobs", type=int, help="give log-probabilities, of this many of the likeliest too")


def _options(options: argparse.Namespace) -> Options:
    """The keywords of `Runtime.generate` that were given."""
    named = {field.name: getattr(options, field.name) for field in dataclasses.fields(Settings)}
    return cast(Options, {name: value for name, value in named.items() if value is not None})


def _generate(options: argparse.Namespace) -> int:
    prompts: list[Prompt] = options.prompt or [_read_ids(options.ids)]
    with Runtime.open(options.bundle) as runtime:
        generations = runtime.generate(prompts, **_options(options))
        has_text = runtime.bundle.manifest.tokenizer is not None
        if options.json:
            print_json({"generations": [_described(generation, has_text=has_text) for generation in generations]})
            return 0
        for generation in generations:
            _stream(generation, has_text=has_text)
            sys.stderr.write(f"{_summary(generation)}\n")
    return 0


def _chat(options: argparse.Namespace) -> int:
    messages = [] if options.system is None else [{"role": "system", "content": options.system}]
    turns = []
    with Runtime.open(options.bundle) as runtime:
        for line in _lines():
            messages.append({"role": "user", "content": line})
            generation = runtime.generate(messages, **_options(options))
            if not options.json:
                _stream(generation, has_text=True)
                sys.stderr.write(f"[{_summary(generation)}]\n")
            messages.append({"role": "assistant", "content": generation.text})
            turns.append(_described(generation, has_text=True))
    if options.json:
        print_json({"messages": messages, "generations": turns})
    return 0


def _lines() -> Iterator[str]:
    """The lines of stdin that are not empty, asked for where someone sits there."""
    asked = sys.stdin.isatty()
    while True:
        if asked:
            sys.stderr.write("> ")
            sys.stderr.flush()
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


def _stream(generation: Generation, *, has_text: bool) -> None:
    """Print an answer as it comes: its text, or ids where the bundle can't make text. Ctrl-C ends the answer."""
    try:
        for token in generation:
            sys.stdout.write(token.text if has_text else f"{token.id} ")
            sys.stdout.flush()
    except KeyboardInterrupt:
        generation.cancel()
    print_line("")


def _summary(generation: Generation) -> str:
    ran = generation.dispatch
    return (
        f"{ran.prompt_tokens} tokens ({ran.reused_tokens} cached) at {ran.prefill_tokens_per_second:.0f}/s, "
        f"{ran.new_tokens} new at {ran.decode_tokens_per_second:.0f}/s, {' -> '.join(ran.buckets)}, "
        f"KV cache {ran.cache_bytes / 1e6:.1f} MB, ended by {generation.finish_reason}"
    )


def _described(generation: Generation, *, has_text: bool) -> dict[str, object]:
    described: dict[str, object] = {
        "text": generation.text if has_text else None,
        "tokens": generation.tokens,
        "finish_reason": generation.finish_reason,
        "dispatch": _rates(generation.dispatch),
    }
    if any(token.logprob is not None for token in generation):
        described["logprobs"] = [{"logprob": token.logprob, "top": token.top} for token in generation]
    return described


def _rates(ran: GenerationDispatch) -> dict[str, object]:
    return ran._asdict() | {
        "prefill_tokens_per_second": ran.prefill_tokens_per_second,
        "decode_tokens_per_second": ran.decode_tokens_per_second,
    }


def _read_ids(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"expected token ids such as 12,7,99, got {text!r}") from None
