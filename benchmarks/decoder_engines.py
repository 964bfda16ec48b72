"""The engines of bench_generation.py: each goes on from a prompt by the likeliest tokens, a few at a time.

Usage: decoder_engines.py ENGINE MODEL [TOKENIZER], which is then asked over its pipes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from itertools import islice

from engines import Answer, serve, timed

Prompt = list[int]
GoOn = Callable[[int], list[int]]
"""Gives so many more tokens."""
Begin = Callable[[Prompt], GoOn]
MOST = 4096 + 512
"""Tokens of a prompt and its answer."""


def main() -> None:
    serve(lambda: handlers(ENGINES[sys.argv[1]](*sys.argv[2:])))


def handlers(begin: Begin) -> dict[str, Callable[..., Answer]]:
    going_on: dict[str, GoOn] = {}

    def prefill(talk: str, prompt: Prompt) -> Answer:
        going_on.pop(talk, None)
        going_on[talk] = begin(prompt)
        return decode(talk, 1)

    def decode(talk: str, steps: int) -> Answer:
        tokens, times = timed(lambda: going_on[talk](steps))
        assert len(tokens) == steps, "the text has ended"
        return times | {"tokens": tokens}

    return {"prefill": prefill, "decode": decode}


def pulled(tokens: Callable[[Prompt], Iterator[int]]) -> Begin:
    """Takes a few at a time of what an iterator gives without end."""

    def begin(prompt: Prompt) -> GoOn:
        iterator = tokens(prompt)
        return lambda steps: list(islice(iterator, steps))

    return begin


def ctx_export(bundle: str) -> Begin:
    """Our runtime's `generate`."""
    from ctx_runtime import Runtime

    runtime = Runtime.open(bundle)
    runtime.explain(1)  # opens the session

    def tokens(prompt: Prompt) -> Iterator[int]:
        return (token.id for token in runtime.generate(prompt, max_new_tokens=MOST - 4096))

    return pulled(tokens)


def transformers(model: str) -> Begin:
    """Transformers' model with its growing cache, called without what `generate` adds."""
    import torch
    from transformers import AutoModelForCausalLM, DynamicCache

    torch.set_num_threads(1)
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="sdpa").eval()

    def tokens(prompt: Prompt) -> Iterator[int]:
        cache, ids = DynamicCache(config=network.config), prompt
        while True:
            with torch.inference_mode():
                step = network(input_ids=torch.tensor([ids]), past_key_values=cache, use_cache=True, logits_to_keep=1)
            ids = [int(step.logits[0, -1].argmax())]
            yield ids[0]

    return pulled(tokens)


def onnxruntime_genai(folder: str) -> Begin:
    """ONNX Runtime GenAI on a model of its own builder, the cache shared by past and present."""
    import onnxruntime_genai as genai

    config = genai.Config(folder)
    config.overlay('{"model": {"decoder": {"session_options": {"intra_op_num_threads": 1}}}}')
    model = genai.Model(config)

    def tokens(prompt: Prompt) -> Iterator[int]:
        params = genai.GeneratorParams(model)
        params.set_search_options(max_length=len(prompt) + MOST - 4096, do_sample=False, past_present_share_buffer=True)
        generator = genai.Generator(model, params)
        generator.append_tokens(prompt)
        while True:
            generator.generate_next_token()
            yield int(generator.get_next_tokens()[0])

    return pulled(tokens)


def llama_cpp(path: str, tokenizer: str) -> Begin:
    """llama.cpp's server without HTTP, which gives text; each call goes on from the cache of the call before.

    Prompts of each length have a slot of their own, up to three.
    """
    import xllamacpp
    from tokenizers import Tokenizer

    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel = path, 3 * MOST, 3
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.cache_ram_mib = 0
    server, reader = xllamacpp.Server(params), Tokenizer.from_file(tokenizer)
    slots: dict[int, int] = {}

    def begin(prompt: Prompt) -> GoOn:
        text, slot = list(prompt), slots.setdefault(len(prompt), len(slots))

        def go_on(steps: int) -> list[int]:
            request = {"prompt": text, "n_predict": steps, "id_slot": slot, "temperature": 0, "ignore_eos": True}
            answer = server.handle_completions(request)["choices"][0]["text"]
            tokens: list[int] = reader.encode(answer, add_special_tokens=False).ids
            text.extend(tokens)
            return tokens

        return go_on

    return begin


ENGINES: dict[str, Callable[..., Begin]] = {
    "ctx-export": ctx_export,
    "transformers": transformers,
    "onnxruntime-genai": onnxruntime_genai,
    "llama.cpp": llama_cpp,
}

if __name__ == "__main__":
    main()
