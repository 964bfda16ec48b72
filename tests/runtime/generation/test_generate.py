"""`Runtime.generate` against PyTorch's own generation, and what a caller may do with a generation."""

import itertools
import threading

import numpy as np
import pytest

from ctx_runtime import Runtime
from ctx_runtime.errors import CtxError, InputError, MemoryBudgetError, TooLongError
from ctx_runtime.generation import cache, generator
from ctx_runtime.generation.tally import GenerationStats
from tests.fixtures.bundles import write_tiny_bundle
from tests.fixtures.decoder_bundles import greedy, wrap_decoder
from tests.fixtures.decoders import ARCHITECTURES, reference_logits, text

PROMPT = text(11)
SLIDING = {"overflow": {"policy": "sliding"}}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return wrap_decoder("llama", tmp_path_factory.mktemp("generate") / "bundle", tokenizer=True)


@pytest.fixture
def runtime(bundle):
    with Runtime.open(bundle) as opened:
        yield opened


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_128_greedy_tokens_are_those_of_pytorch_over_two_moves(tmp_path, kind):
    root = wrap_decoder(kind, tmp_path / "bundle", (16, 48, 139))
    with Runtime.open(root) as runtime:
        generation = runtime.generate(PROMPT)
        assert generation.tokens == greedy(kind, PROMPT, 128)
    assert generation.finish_reason == "length"
    assert generation.dispatch.buckets == ("ctx-16", "ctx-48", "ctx-139")


@pytest.mark.parametrize(("form", "chunk"), [("attention", 8), ("gqa", 5), ("gqa", 64)])
def test_forms_and_chunks_give_the_same_tokens(tmp_path, form, chunk):
    root = wrap_decoder("llama", tmp_path / "bundle", form=form, decoding={"chunk": chunk})
    with Runtime.open(root) as runtime:
        assert runtime.generate(text(30), max_new_tokens=100).tokens == greedy("llama", text(30), 100)


def test_an_answer_ends_with_a_token_that_ends_texts(tmp_path):
    tokens = greedy("llama", PROMPT, 20)
    end = tokens[12]
    with Runtime.open(wrap_decoder("llama", tmp_path / "bundle", ends=(end,))) as runtime:
        generation = runtime.generate(PROMPT, max_new_tokens=20)
        assert generation.tokens == tokens[: tokens.index(end) + 1] and generation.finish_reason == "eos"


def test_rows_of_a_batch_are_what_each_is_alone(tmp_path):
    prompts = [text(length, seed=length) for length in (5, 30, 1, 17)]
    ends = (greedy("llama", prompts[2], 6)[5],)
    with Runtime.open(wrap_decoder("llama", tmp_path / "bundle", ends=ends, batch={"max": 3})) as runtime:
        options = {"max_new_tokens": 25, "temperature": 1.2, "seed": 5}
        for settings in ({"max_new_tokens": 25}, options):
            together = runtime.generate(prompts, **settings)
            alone = [runtime.generate(prompt, **settings) for prompt in prompts]
            assert [row.tokens for row in together] == [row.tokens for row in alone]
            assert [row.finish_reason for row in together] == [row.finish_reason for row in alone]
        assert {row.finish_reason for row in runtime.generate(prompts, max_new_tokens=25)} == {"eos", "length"}


def test_tokens_come_one_by_one_and_stay(runtime):
    generation = runtime.generate("t5 t6 t7", max_new_tokens=6)
    first = list(itertools.islice(generation, 2))
    assert [token.id for token in first] == greedy("llama", [5, 6, 7], 6)[:2]
    assert [token.id for token in generation] == generation.tokens == greedy("llama", [5, 6, 7], 6)
    assert "".join(token.text for token in generation) == generation.text
    assert generation.text.split() == [f"t{token}" for token in generation.tokens if token > 2]


def test_a_stop_string_over_several_tokens_ends_the_text_before_it(runtime):
    tokens = greedy("llama", PROMPT, 20)
    words = [f"t{token}" for token in tokens]
    stop = " ".join(words[4:6])
    generation = runtime.generate(PROMPT, max_new_tokens=20, stop=[stop])
    assert generation.finish_reason == "stop" and generation.tokens == tokens[:6]
    assert generation.text == " " + " ".join(words[:4]) + " "


def test_log_probabilities_are_those_of_pytorch(runtime):
    generation = runtime.generate(PROMPT, max_new_tokens=4, logprobs=3)
    ids = PROMPT + generation.tokens
    logits = reference_logits("llama", ids)[len(PROMPT) - 1 : -1].astype(np.float64)
    expected = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    for row, token in zip(expected, generation, strict=True):
        assert token.logprob == pytest.approx(row[token.id], abs=1e-4)
        assert [other for other, _ in token.top] == np.argsort(-row)[:3].tolist() and token.top[0][0] == token.id


def test_a_prompt_that_goes_on_from_the_last_text_runs_only_what_is_new(runtime):
    first = runtime.generate(PROMPT, max_new_tokens=10)
    longer = PROMPT + first.tokens + text(5, seed=9)
    second = runtime.generate(longer, max_new_tokens=10)
    assert second.tokens == greedy("llama", longer, 10)
    assert second.dispatch.reused_tokens == len(PROMPT) + 9  # the last token of an answer is never run
    changed = longer[:15] + text(12, seed=8)
    third = runtime.generate(changed, max_new_tokens=10)
    assert third.tokens == greedy("llama", changed, 10) and third.dispatch.reused_tokens == 15
    again = runtime.generate(changed, max_new_tokens=10)
    assert again.tokens == third.tokens and again.dispatch.reused_tokens == len(changed) - 1
    assert runtime.generate(text(9, seed=7), max_new_tokens=5).dispatch.reused_tokens == 0


def test_a_full_cache_is_reused_for_all_of_its_text_or_not_at_all(tmp_path):
    with Runtime.open(wrap_decoder("llama", tmp_path / "bundle", (16,), **SLIDING)) as runtime:
        first = runtime.generate(PROMPT, max_new_tokens=30)
        whole = runtime.generate([*PROMPT, *first.tokens, 7], max_new_tokens=5)
        with Runtime.open(runtime.bundle) as fresh:
            assert fresh.generate([*PROMPT, *first.tokens, 7], max_new_tokens=5).tokens == whole.tokens
            assert whole.dispatch.reused_tokens == len(PROMPT) + 29
            part = [*PROMPT, *first.tokens[:20], 7]
            answer = runtime.generate(part, max_new_tokens=5)
            assert answer.tokens == fresh.generate(part, max_new_tokens=5).tokens
            assert answer.dispatch.reused_tokens == 0


def test_cancelling_keeps_what_there_is_and_what_was_cached(runtime):
    generation = runtime.generate(PROMPT, max_new_tokens=50)
    seen = []
    for token in generation:
        seen.append(token.id)
        if len(seen) == 5:
            generation.cancel()
    assert generation.tokens == seen == greedy("llama", PROMPT, 5)
    assert generation.finish_reason == "cancelled"
    assert runtime.generate(PROMPT + seen, max_new_tokens=3).dispatch.reused_tokens == len(PROMPT) + 4


def test_what_was_held_back_for_a_stop_string_belongs_to_a_cancelled_text(runtime):
    words = [f" t{token}" for token in greedy("llama", PROMPT, 3)]
    generation = runtime.generate(PROMPT, max_new_tokens=50, stop=f"{words[1]}{words[2]} never")
    pieces = [token.text for token in itertools.islice(generation, 3)]
    generation.cancel()
    assert pieces == [words[0], "", ""] and generation.text == "".join(words)


def test_one_row_may_be_cancelled_and_one_never_begun(runtime):
    rows = runtime.generate([PROMPT, text(4)], max_new_tokens=9)
    rows[0].cancel()
    assert rows[0].tokens == [] and rows[0].text == ""
    assert rows[1].tokens == greedy("llama", text(4), 9)


def test_threads_generate_at_once(runtime):
    prompts = [text(7, seed=seed) for seed in range(4)]
    answers = {}

    def answer(index):
        answers[index] = runtime.generate(prompts[index], max_new_tokens=30).tokens

    threads = [threading.Thread(target=answer, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {index: greedy("llama", prompt, 30) for index, prompt in enumerate(prompts)}


def test_what_cannot_be_generated_is_refused_before_anything_runs(runtime, tmp_path):
    refusals = [
        (text(160), {}, TooLongError, "160 tokens and 1 new ones are more than the 160"),
        (PROMPT, {"max_new_tokens": 150}, TooLongError, "more than the 160"),
        ([], {}, InputError, "the prompt is empty"),
        ([[5], []], {}, InputError, "a prompt is empty"),
        ([5, 97], {}, InputError, "token ids are from 0 to 96"),
        ([0.5], {}, InputError, "expected a text, messages or token ids"),
        (PROMPT, {"top_p": 2}, InputError, "top_p: expected above 0"),
    ]
    for prompt, options, kind, message in refusals:
        with pytest.raises(kind, match=message):
            runtime.generate(prompt, **options)
    assert runtime.stats().open_sessions == 0
    with pytest.raises(InputError, match="generates text"):
        runtime.run({"input_ids": np.array(PROMPT)})
    encoder = Runtime.open(write_tiny_bundle(tmp_path / "encoder"))
    with encoder, pytest.raises(InputError, match="does not generate text"):
        encoder.generate("w3")


def test_too_little_memory_names_what_fits(tmp_path):
    with Runtime.open(wrap_decoder("llama", tmp_path / "bundle", memory_budget=48 * 512)) as runtime:
        with pytest.raises(MemoryBudgetError) as refused:
            runtime.generate(PROMPT, max_new_tokens=50)
        assert refused.value.hint == "the largest context that fits is 48 tokens"
        generation = runtime.generate(PROMPT)
        assert len(generation.tokens) == 37 and generation.dispatch.buckets == ("ctx-16", "ctx-48")
        assert generation.dispatch.cache_bytes == 48 * 512


def test_a_bundle_without_a_tokenizer_takes_and_gives_ids(tmp_path):
    with Runtime.open(wrap_decoder("llama", tmp_path / "bundle")) as runtime:
        generation = runtime.generate(np.array(PROMPT), max_new_tokens=3)
        assert generation.tokens == greedy("llama", PROMPT, 3)
        with pytest.raises(InputError, match="no tokenizer"):
            generation.text  # noqa: B018 (it is a property that runs)
        with pytest.raises(InputError, match="no tokenizer"):
            runtime.generate("t5")
        with pytest.raises(InputError, match="stop strings need a tokenizer"):
            runtime.generate(PROMPT, stop="t5")


def test_a_step_that_fails_fails_again_and_others_go_on(bundle):
    runtime = Runtime.open(bundle)
    generation = runtime.generate(PROMPT, max_new_tokens=20)
    next(iter(generation))
    runtime.close()
    for _ in range(2):
        with pytest.raises(CtxError, match="the runtime is closed"):
            generation.tokens  # noqa: B018
    with Runtime.open(bundle) as other:
        assert other.generate(PROMPT, max_new_tokens=4).tokens == greedy("llama", PROMPT, 4)


def test_explain_states_the_memory_of_the_bucket(runtime):
    explanation = runtime.explain(30, batch=100)
    assert explanation.bucket == "ctx-48" and explanation.backend == "onnxruntime-cpu"
    assert explanation.reason == "30 tokens and 4 in reserve: 2.5 MB in ctx-48"


def test_stats_count_tokens_and_moves_of_all_generations(runtime):
    first = runtime.generate(PROMPT, max_new_tokens=3)
    assert runtime.stats().generation == GenerationStats()
    first.tokens  # noqa: B018 (it is a property that runs)
    runtime.generate([*PROMPT, *first.tokens]).cancel()
    longer = runtime.generate([*PROMPT, *first.tokens, 7])
    assert longer.dispatch.new_tokens == 145 and longer.dispatch.buckets == ("ctx-48", "ctx-160")
    assert runtime.stats().generation == GenerationStats(len(PROMPT) + 2, len(PROMPT) + 2, 148, 1)


def test_too_little_memory_in_the_system_is_said_before_it_is_taken(runtime, monkeypatch):
    monkeypatch.setattr(generator, "available_bytes", lambda: 50 * 512)
    with pytest.raises(MemoryBudgetError, match="take 81920 bytes in ctx-160, the system has 25600 available") as no:
        runtime.generate(PROMPT, max_new_tokens=50)
    assert no.value.hint == "the largest context that fits is 48 tokens" and "\n" not in str(no.value)
    generation = runtime.generate(PROMPT)
    assert len(generation.tokens) == 37 and generation.finish_reason == "length"
    monkeypatch.setattr(generator, "available_bytes", lambda: (160 - 48) * 512)
    assert runtime.generate(PROMPT, max_new_tokens=50).dispatch.buckets == ("ctx-160",)


def test_memory_that_went_meanwhile_ends_the_text_where_it_is(runtime, monkeypatch):
    generation = runtime.generate(PROMPT)
    seen = list(itertools.islice(generation, 30))
    monkeypatch.setattr(cache, "available_bytes", lambda: 20 * 512)
    with pytest.raises(MemoryBudgetError, match="a KV cache of 1 x 160 tokens takes 81920 bytes") as no:
        generation.tokens  # noqa: B018
    assert no.value.hint == "the largest context that fits is 68 tokens"
    assert [token.id for token in seen] == greedy("llama", PROMPT, 30)
