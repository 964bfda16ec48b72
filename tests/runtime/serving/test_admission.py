import pytest
from starlette.testclient import TestClient

from ctx_runtime import Runtime
from ctx_runtime.serving.admission import Gate
from ctx_runtime.serving.app import Limits, create_app

ROW = {"inputs": [{"name": "input_ids", "shape": [1, 1], "datatype": "INT64", "data": [3]}]}
INFER = "/v2/models/tiny/infer"


@pytest.fixture(scope="module")
def runtime(bundle):
    with Runtime.open(bundle) as runtime:
        yield runtime


def test_readiness_is_false_before_the_graphs_are_open_and_once_the_server_drains(runtime):
    gate = Gate()
    client = TestClient(create_app(runtime, gate, Limits()))
    paths = ("/v2/health/ready", "/v2/models/tiny/ready")
    assert [client.get(path).status_code for path in paths] == [503, 503]
    assert client.post("/v2/repository/index").json()[0]["state"] == "LOADING"
    gate.warm = True
    assert [client.get(path).status_code for path in paths] == [200, 200]
    gate.draining = True
    assert [client.get(path).status_code for path in paths] == [503, 503]
    assert client.get("/v2/health/live").status_code == 200


def test_work_is_refused_while_draining_and_beyond_the_limit_and_says_when_to_come_again(runtime):
    gate = Gate(warm=True)
    client = TestClient(create_app(runtime, gate, Limits(max_requests=2)))
    assert client.post(INFER, json=ROW).status_code == 200
    gate.running = 2
    refused = client.post(INFER, json=ROW)
    assert (refused.status_code, refused.json()["error"]) == (503, "2 requests are under way")
    gate.running, gate.draining = 0, True
    refused = client.post("/v1/embeddings", json={"model": "tiny", "input": "w3"})
    assert (refused.status_code, refused.json()["error"]["message"]) == (503, "the server shuts down")
    assert refused.headers["retry-after"] == "1" and refused.headers["connection"] == "close"
    assert (gate.running, gate.answered) == (0, 1)
    assert client.get("/metrics").status_code == 200


@pytest.mark.parametrize(
    "given", [None, "Bearer wrong", "Bearer secre", "secret", "Bearer s\u00e4cret", "Basic secret"]
)
def test_without_the_key_nothing_but_health_is_answered(runtime, given):
    client = TestClient(create_app(runtime, Gate(warm=True), Limits(), api_key="secret"))
    headers = {} if given is None else {"Authorization": given.encode()}
    for refused in (client.post(INFER, json=ROW, headers=headers), client.get("/metrics", headers=headers)):
        assert (refused.status_code, refused.json()["error"]) == (401, "the API key is missing or wrong")
    assert client.get("/v1/models", headers=headers).json()["error"]["type"] == "authentication_error"
    assert client.get("/v2/health/ready").status_code == 200


def test_the_key_opens(runtime):
    client = TestClient(create_app(runtime, Gate(warm=True), Limits(), api_key="secret"))
    assert client.post(INFER, json=ROW, headers={"Authorization": "Bearer secret"}).status_code == 200
