import time

import openai
import pytest
from starlette.testclient import TestClient

from ctx_runtime import Runtime
from ctx_runtime.errors import BackendError
from ctx_runtime.generation.decoding import Decoding
from ctx_runtime.serving.admission import Gate
from ctx_runtime.serving.app import Limits, create_app
from tests.fixtures.decoder_bundles import greedy
from tests.fixtures.servers import served

MESSAGES = [{"role": "t7", "content": "t8 t9"}, {"role": "t10", "content": "t11"}]
PROMPT = [7, 8, 9, 10, 11, 5]
ASKED = {"model": "llama", "messages": MESSAGES, "temperature": 0, "max_tokens": 5}


def words(tokens):
    return [f"t{token}" for token in tokens if token > 2]


@pytest.fixture(scope="module")
def server(talker):
    with served(talker, limits=Limits(max_prompts=0)) as (address, runtime):
        yield openai.OpenAI(base_url=f"http://{address}/v1", api_key="any", max_retries=0), runtime


@pytest.fixture(scope="module")
def talking(talker):
    """A client of an application in this process, without a server."""
    with Runtime.open(talker) as runtime:
        yield TestClient(create_app(runtime, Gate(warm=True), Limits()))


def test_the_openai_client_gets_an_answer(server):
    answer = server[0].chat.completions.create(**ASKED, logprobs=True, top_logprobs=2)
    (choice,) = answer.choices
    tokens = greedy("llama", PROMPT, 5)
    assert choice.message.role == "assistant" and choice.message.content.split() == words(tokens)
    assert choice.finish_reason == "length" and answer.model == "llama"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (6, 5)
    for entry in choice.logprobs.content:
        assert len(entry.top_logprobs) == 2 and entry.logprob == entry.top_logprobs[0].logprob < 0
        assert entry.token == entry.top_logprobs[0].token


def test_the_openai_client_gets_a_stream_of_the_same_answer(server):
    events = list(server[0].chat.completions.create(**ASKED, stream=True, stream_options={"include_usage": True}))
    whole = server[0].chat.completions.create(**ASKED)
    assert events[0].choices[0].delta.role == "assistant"
    assert "".join(event.choices[0].delta.content or "" for event in events[:-1]) == whole.choices[0].message.content
    assert [event.choices[0].finish_reason for event in events[:-1]] == [None] * (len(events) - 2) + ["length"]
    assert events[-1].choices == [] and events[-1].usage == whole.usage
    assert len({event.id for event in events}) == 1


def test_a_seed_draws_the_same_and_a_stop_string_ends(server):
    asked = ASKED | {"temperature": 1.5, "seed": 3, "max_tokens": 9}
    first, second = (server[0].chat.completions.create(**asked).choices[0].message.content for _ in range(2))
    assert first == second and first.split() != words(greedy("llama", PROMPT, 9))
    stop = words(greedy("llama", PROMPT, 5))[2]
    (choice,) = server[0].chat.completions.create(**ASKED, stop=stop).choices
    assert choice.finish_reason == "stop" and stop not in choice.message.content


def test_a_caller_that_leaves_ends_its_generation_and_gives_its_turn_back(server, monkeypatch):
    client, _ = server
    steps, real = [], Decoding.step

    def slow(decoding, tokens):
        steps.append(time.sleep(0.05))
        return real(decoding, tokens)

    monkeypatch.setattr(Decoding, "step", slow)
    stream = client.chat.completions.create(**ASKED | {"max_tokens": 120}, stream=True)
    next(stream), next(stream), next(stream)
    with pytest.raises(openai.InternalServerError, match="0 prompts wait already") as refused:
        client.chat.completions.create(**ASKED)
    assert refused.value.status_code == 503 and refused.value.response.headers["retry-after"] == "1"
    stream.close()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            answer = client.chat.completions.create(**ASKED)
            break
        except openai.InternalServerError:
            time.sleep(0.02)
    assert answer.usage.completion_tokens == 5 and len(steps) < 100


def test_an_error_in_the_middle_of_a_stream_is_its_last_event(talking, monkeypatch):
    def broken(decoding, tokens):
        raise BackendError("the device is gone")

    monkeypatch.setattr(Decoding, "step", broken)
    events = talking.post("/v1/chat/completions", json=ASKED | {"stream": True}).text.split("\n\n")
    assert '"the device is gone"' in events[-2] and events[-1] == "" and "[DONE]" not in events[-2]
    answer = talking.post("/v1/chat/completions", json=ASKED)
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "server_error")


def test_parts_of_a_message_are_one_text(talking):
    parts = [{"type": "text", "text": "t8 "}, {"type": "text", "text": "t9"}]
    asked = ASKED | {"messages": [MESSAGES[0] | {"content": parts}, MESSAGES[1]]}
    texts = [talking.post("/v1/chat/completions", json=one).json()["choices"][0]["message"] for one in (asked, ASKED)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"messages": []}, "messages: List should have at least 1 item"),
        ({"n": 2}, "n: Input should be 1"),
        ({"tools": []}, "tools: Extra inputs are not permitted"),
        ({"max_tokens": 0}, "max_tokens: Input should be greater than or equal to 1"),
        ({"messages": [{"role": "t7", "content": "t8 " * 200}]}, "more than the 160 "),
        ({"messages": [{"role": "t7", "content": [{"type": "image_url"}]}]}, "messages.0.content"),
        ({"stop": [""]}, "stop: expected texts that are not empty"),
    ],
)
def test_a_bad_request_says_what_is_wrong(talking, changed, message):
    answer = talking.post("/v1/chat/completions", json=ASKED | changed)
    assert answer.status_code == 400 and message in answer.json()["error"]["message"]


def test_another_model_and_an_endpoint_that_the_bundle_lacks_are_not_found(talking):
    assert talking.post("/v1/chat/completions", json=ASKED | {"model": "other"}).status_code == 404
    assert talking.post("/v1/embeddings", json={"model": "llama", "input": "t7"}).status_code == 404
    assert talking.post("/v2/models/llama/infer", json={}).status_code == 404
