import io
import json

import pytest

from tests.fixtures.decoder_bundles import greedy, wrap_decoder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return wrap_decoder("llama", tmp_path_factory.mktemp("bundles") / "llama", tokenizer=True)


def words(tokens):
    return [f"t{token}" for token in tokens if token > 2]  # special tokens are no text


def test_generate_streams_the_text_and_sums_up_on_stderr(command, bundle):
    status, out, err = command("generate", bundle, "--prompt", "t5 t6 t7", "--max-new-tokens", 14)
    assert status == 0 and out.split() == words(greedy("llama", [5, 6, 7], 14))
    assert err.startswith("3 tokens (0 cached) at ") and "14 new at " in err
    assert err.endswith("/s, ctx-48, KV cache 0.0 MB, ended by length\n")


def test_generate_prints_one_object(command, bundle):
    arguments = ("--prompt", "t5 t6", "--prompt", "t7", "--max-new-tokens", 4, "--logprobs", 2, "--json")
    status, out, err = command("generate", bundle, *arguments)
    first, second = json.loads(out)["generations"]
    assert status == 0 and err == ""
    assert first["tokens"] == greedy("llama", [5, 6], 4) and second["tokens"] == greedy("llama", [7], 4)
    assert first["text"].split() == words(first["tokens"]) and first["finish_reason"] == "length"
    assert [entry["top"][0][0] for entry in first["logprobs"]] == first["tokens"]
    assert first["dispatch"]["buckets"] == ["ctx-16"] and first["dispatch"]["prefill_tokens_per_second"] > 0


def test_generate_takes_ids_and_draws_the_same_with_a_seed(command, bundle):
    arguments = (
        "generate",
        bundle,
        "--ids",
        "5,6,7",
        "--temperature",
        1.5,
        "--seed",
        3,
        "--max-new-tokens",
        9,
        "--json",
    )
    tokens = [json.loads(command(*arguments)[1])["generations"][0]["tokens"] for _ in range(2)]
    assert tokens[0] == tokens[1] != greedy("llama", [5, 6, 7], 9)


def test_without_a_tokenizer_ids_come_out(command, tmp_path):
    bundle = wrap_decoder("llama", tmp_path / "bundle")
    status, out, _ = command("generate", bundle, "--ids", "5,6,7", "--max-new-tokens", 3)
    assert status == 0 and out.split() == [str(token) for token in greedy("llama", [5, 6, 7], 3)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--ids", "5,x"), "error: expected token ids such as 12,7,99, got '5,x'\n"),
        (("--prompt", "t5", "--top-p", "3"), "error: top_p: expected above 0 and at most 1, got 3.0\n"),
        (("--prompt", "t5 " * 160), "error: a prompt of 160 tokens and 1 new ones are more than the 160 "),
    ],
)
def test_bad_input_is_one_line(command, bundle, arguments, message):
    status, out, err = command("generate", bundle, *arguments)
    assert status == 2 and out == "" and err.startswith(message)


def test_chat_keeps_the_talk_in_one_cache_that_grows(command, bundle, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("t8 t9\n\nt11\n"))
    status, out, err = command("chat", bundle, "--system", "t7", "--max-new-tokens", 12)
    unknown = 0  # words that the tokenizer does not know, the roles
    first = [unknown, 7, unknown, 8, 9, 5]
    answer = greedy("llama", first, 12)
    second = [*first[:-1], unknown, *(token for token in answer if token > 2), unknown, 11, 5]
    assert status == 0
    assert [line.split() for line in out.splitlines()] == [
        words(answer),
        words(greedy("llama", second, 12)),
    ]
    summaries = err.splitlines()
    assert "6 tokens (0 cached)" in summaries[0] and "(5 cached)" in summaries[1] and "ctx-48" in summaries[1]


def test_chat_prints_one_object(command, bundle, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("t8\n"))
    status, out, err = command("chat", bundle, "--max-new-tokens", 3, "--json")
    talk = json.loads(out)
    assert status == 0 and err == ""
    assert [message["role"] for message in talk["messages"]] == ["user", "assistant"]
    assert talk["messages"][1]["content"] == talk["generations"][0]["text"]


def test_chat_without_a_template_is_one_line(command, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("t8\n"))
    bundle = wrap_decoder("llama", tmp_path / "bundle", tokenizer=True, template=None)
    status, out, err = command("chat", bundle)
    assert status == 2 and out == ""
    assert err == "error: the bundle llama has no chat template\nhint: give the prompt as a text or as token ids\n"


def test_inspect_and_explain_state_the_memory(command, bundle):
    _, out, _ = command("inspect", bundle, "--json")
    assert json.loads(out)["memory"] == {"ctx-16": 8192, "ctx-48": 24576, "ctx-160": 81920}
    _, out, _ = command("inspect", bundle)
    assert "ctx-160  0.1 MB" in out and "longer than 160 tokens: refused" in out
    _, out, _ = command("explain", bundle, "--length", 100, "--batch", 20, "--json")
    assert json.loads(out)["reason"] == "100 tokens and 4 in reserve: 1.6 MB in ctx-160"
