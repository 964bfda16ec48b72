import gzip
import json

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from tests.fixtures.bundles import expected
from tests.fixtures.servers import served

IDS = np.array([[3, 4, 5], [6, 7, 8]])
INPUT = {"name": "input_ids", "shape": [2, 3], "datatype": "INT64", "data": IDS.tolist()}
LENGTH = "Inference-Header-Content-Length"


@pytest.fixture(scope="module")
def server(bundle):
    with served(bundle) as (address, _):
        yield triton.InferenceServerClient(address)


def infer(server, ids, *, binary=True, outputs=("pooled", "hidden"), **options):
    tensor = triton.InferInput("input_ids", list(ids.shape), "INT64")
    tensor.set_data_from_numpy(ids, binary_data=binary)
    wanted = [triton.InferRequestedOutput(name, binary_data=binary) for name in outputs]
    return server.infer("tiny", [tensor], outputs=wanted or None, **options)


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_tritonclient_gets_the_answers_in_every_form(server, binary, compression):
    options = {"request_compression_algorithm": compression, "response_compression_algorithm": compression}
    answer = infer(server, IDS, binary=binary, **options)
    for name, value in expected(IDS).items():
        np.testing.assert_allclose(answer.as_numpy(name), value, atol=1e-6)


def test_tritonclient_asks_for_all_outputs_by_default_and_for_a_version(server):
    answer = infer(server, IDS, outputs=(), model_version="1", request_id="seven", timeout=5_000_000)
    assert answer.get_response()["id"] == "seven"
    assert answer.get_response()["parameters"] == {"buckets": "ctx-16", "reasons": "3 tokens fit 1..16"}
    np.testing.assert_allclose(answer.as_numpy("hidden"), expected(IDS)["hidden"], atol=1e-6)


def test_tritonclient_learns_what_is_served(server):
    assert server.is_server_live() and server.is_server_ready() and server.is_model_ready("tiny", "1")
    assert "binary_tensor_data" in server.get_server_metadata()["extensions"]
    metadata = server.get_model_metadata("tiny")
    assert metadata["inputs"][0] == {"name": "input_ids", "datatype": "INT64", "shape": [-1, -1]}
    assert metadata["outputs"][1] == {"name": "pooled", "datatype": "FP32", "shape": [-1, 4]}
    assert server.get_model_config("tiny")["output"][1]["dims"] == [4]
    assert server.get_model_repository_index()[0]["state"] == "READY"
    before = server.get_inference_statistics("tiny")["model_stats"][0]["inference_count"]
    infer(server, IDS)
    assert server.get_inference_statistics("tiny")["model_stats"][0]["inference_count"] == before + 2


def test_what_is_refused_reaches_tritonclient_in_words(server):
    with pytest.raises(InferenceServerException, match=r"\[400\] unknown output 'absent'; the bundle has hidden"):
        infer(server, IDS, outputs=("absent",))
    with pytest.raises(InferenceServerException, match="there is no GET /v2/models/other here"):
        server.get_model_metadata("other")
    assert not server.is_model_ready("other")


def test_a_long_row_runs_in_segments_and_a_mask_ends_rows(client):
    mask = {"name": "attention_mask", "shape": [2, 60], "datatype": "INT32"}
    rows = {"name": "input_ids", "shape": [2, 60], "datatype": "INT32", "data": [7] * 120}
    answer = client.post(
        "/v2/models/tiny/infer",
        json={"inputs": [rows, mask | {"data": [[1] * 60, [1] * 2 + [0] * 58]}], "outputs": [{"name": "pooled"}]},
    ).json()
    assert answer["parameters"]["reasons"] == "60 tokens in 2 segments of 48; 2 tokens fit 1..16"
    assert answer["outputs"][0]["shape"] == [2, 4]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"inputs": []}, "not an inference request: inputs: List should have at least 1 item"),
        ({"inputs": [INPUT | {"datatype": "BYTES"}]}, "inputs.0.datatype: Input should be"),
        ({"inputs": [INPUT | {"shape": [2, 4]}]}, "input 'input_ids' has 6 numbers, its shape [2, 4] has others"),
        ({"inputs": [INPUT | {"data": [[3, 4], [5]]}]}, "the data of input 'input_ids' are no array"),
        ({"inputs": [INPUT | {"data": [0.5] * 6}]}, "the data of input 'input_ids' are no INT64"),
        ({"inputs": [INPUT | {"name": "ids"}]}, "unknown input 'ids'"),
        ({"inputs": [INPUT | {"data": [-1] * 6}]}, "has a negative token id"),
        ({"inputs": [INPUT], "outputs": [{"name": "pooled", "parameters": {"classification": 3}}]}, "not as classes"),
    ],
)
def test_a_bad_request_says_what_is_wrong(client, body, message):
    answer = client.post("/v2/models/tiny/infer", json=body)
    assert answer.status_code == 400 and message in answer.json()["error"]


@pytest.mark.parametrize(
    ("content", "length", "message"),
    [
        (b"{", None, "not an inference request: Invalid JSON"),
        (b"{}", "3", "Inference-Header-Content-Length is 3, the body has 2 bytes"),
        (b"{}", "x", "Inference-Header-Content-Length: Input should be a valid integer"),
        (b"[" * 100_000, None, "not an inference request"),
    ],
)
def test_a_broken_body_says_what_is_wrong(client, content, length, message):
    headers = {} if length is None else {LENGTH: length}
    answer = client.post("/v2/models/tiny/infer", content=content, headers=headers)
    assert answer.status_code == 400 and message in answer.json()["error"]


def test_a_caller_may_accept_no_compression_or_any(client):
    asked = {"inputs": [INPUT], "parameters": {"binary_data_output": True}}
    plain = client.post("/v2/models/tiny/infer", json=asked, headers={"Accept-Encoding": "identity"})
    zipped = client.post(
        "/v2/models/tiny/infer",
        content=gzip.compress(json.dumps(asked).encode()),
        headers={"Accept-Encoding": "br, gzip;q=0.5", "Content-Encoding": "gzip"},
    )
    assert "content-encoding" not in plain.headers and zipped.headers["content-encoding"] == "gzip"
    assert plain.content == zipped.content and plain.headers[LENGTH] == zipped.headers[LENGTH]
    pooled = np.frombuffer(plain.content[-32:], "<f4").reshape(2, 4)
    np.testing.assert_allclose(pooled, expected(IDS)["pooled"], atol=1e-6)
