import base64

import numpy as np
import openai
import pytest

from ctx_runtime import Runtime
from ctx_runtime.serving.embeddings import pooled_output
from tests.fixtures.bundles import MEAN, STATES, expected
from tests.fixtures.servers import served

TEXTS = ["w3 w4 w5", "w7", "w8 " * 60]


def pooled(ids):
    return expected(np.array([ids]))["pooled"][0]


def test_the_openai_client_gets_embeddings_of_texts_and_token_ids(bundle):
    with served(bundle) as (address, runtime):
        client = openai.OpenAI(base_url=f"http://{address}/v1", api_key="any", max_retries=0)
        answer = client.embeddings.create(model="tiny", input=TEXTS)
        for text, vector in zip(TEXTS, answer.data, strict=True):
            np.testing.assert_allclose(vector.embedding, runtime.run_text(text).outputs["pooled"], atol=1e-6)
        assert (answer.usage.prompt_tokens, answer.model) == (64, "tiny")
        (one,) = client.embeddings.create(model="tiny", input=[3, 4], encoding_format="float").data
        np.testing.assert_allclose(one.embedding, pooled([3, 4]), atol=1e-6)
        several = client.embeddings.create(model="tiny", input=[[3, 4], [5]]).data
        np.testing.assert_allclose(several[1].embedding, pooled([5]), atol=1e-6)
        assert client.models.list().data[0].id == "tiny"
        with pytest.raises(openai.NotFoundError, match="the model 'other' is not served here, 'tiny' is"):
            client.embeddings.create(model="other", input="w3")
        with pytest.raises(openai.BadRequestError, match="the input is empty"):
            client.embeddings.create(model="tiny", input=["w3", ""])


def test_base64_is_little_endian_float32(client):
    asked = {"model": "tiny", "input": "w3", "encoding_format": "base64"}
    (vector,) = client.post("/v1/embeddings", json=asked).json()["data"]
    np.testing.assert_allclose(np.frombuffer(base64.b64decode(vector["embedding"]), "<f4"), pooled([3]), atol=1e-6)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dimensions": 3}, "the embeddings have 4 dimensions, not 3"),
        ({"input": []}, "at least 1 item"),
        ({"input": [["w3"], [4]]}, "input.lists of ids.0.0: Input should be a valid integer"),
        ({"input": [-1]}, "greater than or equal to 0"),
        ({"input": [64]}, "token ids are from 0 to 63, got 64"),
        ({"input": ["w3"] * 2049}, "at most 2048 items"),
        ({"prompt": "w3"}, "prompt: Extra inputs are not permitted"),
    ],
)
def test_a_bad_request_says_what_is_wrong(client, changed, message):
    answer = client.post("/v1/embeddings", json={"model": "tiny", "input": "w3"} | changed)
    assert answer.status_code == 400 and message in answer.json()["error"]["message"]
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_the_embedding_is_the_normalized_output_or_the_first_pooled_one(bundle):
    with Runtime.open(bundle) as runtime:
        manifest = runtime.bundle.manifest
    unit = MEAN.model_copy(update={"name": "unit", "normalized": True})
    assert pooled_output(manifest) == MEAN
    assert pooled_output(manifest.model_copy(update={"outputs": (STATES, MEAN, unit)})) == unit
    assert pooled_output(manifest.model_copy(update={"outputs": (STATES,)})) is None
    assert pooled_output(manifest.model_copy(update={"task": "text-classification"})) is None
