"""What ends early or is refused leaves nothing behind, whatever the reason."""

import gc
import tracemalloc

import psutil
import pytest

from ctx_runtime import Runtime
from ctx_runtime.errors import CtxError, InputError, MemoryBudgetError, TooLongError
from ctx_runtime.generation import cache
from tests.fixtures.decoder_bundles import wrap_decoder
from tests.fixtures.decoders import text

ONE_CACHE = 160 * 512
MESSAGES = [{"role": "user", "content": "t5"}]


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    root = wrap_decoder("llama", tmp_path_factory.mktemp("leaks") / "bundle", tokenizer=True, template=None)
    with Runtime.open(root) as opened:
        yield opened


def cancelled(runtime, index, _):
    generation = runtime.generate(text(12, seed=index), max_new_tokens=100)
    next(iter(generation))
    generation.cancel()
    assert generation.finish_reason == "cancelled"


def abandoned(runtime, index, _):
    next(iter(runtime.generate(text(12, seed=index), max_new_tokens=100)))


def too_long(runtime, index, _):
    refused(TooLongError, "a prompt of 200 tokens and 1 new ones are more", runtime, text(200, seed=index))


def without_a_template(runtime, *_):
    refused(InputError, "has no chat template", runtime, MESSAGES)


def without_memory(runtime, index, monkeypatch):
    generation = runtime.generate(text(12, seed=index), max_new_tokens=100)
    with monkeypatch.context() as patch, pytest.raises(MemoryBudgetError, match="the system has 512 available"):
        patch.setattr(cache, "available_bytes", lambda: 512)
        generation.tokens  # noqa: B018 (it is a property that runs)


def refused(kind: type[CtxError], message, runtime, prompt):
    with pytest.raises(kind, match=message) as error:
        runtime.generate(prompt)
    assert "\n" not in f"{error.value}{error.value.hint}"


@pytest.mark.parametrize("end", [cancelled, abandoned, too_long, without_a_template, without_memory])
def test_200_repetitions_leave_nothing(runtime, monkeypatch, end):
    process = psutil.Process()
    for index in range(10):
        end(runtime, index, monkeypatch)
    gc.collect()
    held = process.num_fds(), process.num_threads(), len(gc.get_objects())
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for index in range(200):
        end(runtime, index, monkeypatch)
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 2 * ONE_CACHE and runtime.stats().open_sessions <= 1
    files, threads, objects = process.num_fds(), process.num_threads(), len(gc.get_objects())
    assert (files, threads) == held[:2] and objects - held[2] < 200
