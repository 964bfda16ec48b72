from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from ctx_runtime import Runtime
from ctx_runtime.serving.admission import Gate
from ctx_runtime.serving.app import Limits, create_app


def samples(client):
    families = text_string_to_metric_families(client.get("/metrics").text)
    found = [sample for family in families for sample in family.samples]
    return {(sample.name, *sorted(sample.labels.values())): sample.value for sample in found}


def test_what_ran_and_what_was_refused_is_counted(bundle):
    with Runtime.open(bundle) as runtime:
        client = TestClient(create_app(runtime, Gate(warm=True), Limits()))
        rows = {"name": "input_ids", "shape": [2, 20], "datatype": "INT64", "data": [7] * 40}
        mask = {"name": "attention_mask", "shape": [2, 20], "datatype": "INT64", "data": [1] * 20 + [1] * 18 + [0] * 2}
        for inputs in ([rows], [rows, mask], [mask]):
            client.post("/v2/models/tiny/infer", json={"inputs": inputs})
        client.post("/v1/embeddings", json={"model": "tiny", "input": ["w3", "w4 w5"]})
        found = samples(client)
        assert found["ctx_request_seconds_count", "ctx-48", "infer"] == 2
        assert found["ctx_request_seconds_count", "ctx-16", "embeddings"] == 1
        assert found["ctx_responses_total", "200"] == 3 and found["ctx_responses_total", "400"] == 1
        assert found["ctx_rows_total", "ctx-48"] == 4 and found["ctx_tokens_total", "ctx-48"] == 78
        assert found["ctx_inputs_total", "finished"] == 4 and found["ctx_queue",] == 0
        assert found["ctx_open_sessions",] >= 1 and found["ctx_evictions_total",] == found["ctx_fallbacks_total",] == 0
        stats = runtime.stats().buckets["ctx-48"]
        assert found["ctx_padding_share", "ctx-48"] == stats.padding / (stats.padding + 78)


def test_what_is_generated_is_counted(talker):
    with Runtime.open(talker) as runtime:
        client = TestClient(create_app(runtime, Gate(warm=True), Limits()))
        asked = {"model": "llama", "messages": [{"role": "t7", "content": "t8"}], "max_tokens": 3}
        assert client.post("/v1/chat/completions", json=asked).status_code == 200
        found = samples(client)
        assert found["ctx_request_seconds_count", "chat", "ctx-16"] == 1
        assert found["ctx_generation_tokens_total", "new"] == 3 and found["ctx_generation_queue",] == 0
