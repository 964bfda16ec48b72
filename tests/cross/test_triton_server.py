"""A real Triton server answers from the repository as `Runtime.run` does, at and beyond every edge of a bucket."""

import json

import numpy as np
import pytest

from ctx_export.triton_repository import write_repository
from ctx_runtime import Bundle, Runtime
from tests.fixtures.bundles import VOCABULARY, write_tiny_bundle
from tests.fixtures.triton import NEEDS_SERVER, triton_server

pytestmark = NEEDS_SERVER
http = pytest.importorskip("tritonclient.http", reason="needs tritonclient[http]")


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    folder = tmp_path_factory.mktemp("triton")
    with Runtime.open(write_tiny_bundle(folder / "tiny.bundle")) as opened:
        yield opened


@pytest.fixture(scope="module")
def client(runtime, tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    repository = write_repository(Bundle.open(runtime.bundle.root), folder / "models")
    (folder / "backends").mkdir()
    with (
        triton_server(repository.root, "tiny", folder / "backends") as address,
        http.InferenceServerClient(address, concurrency=8, network_timeout=60) as opened,
    ):
        yield opened


def tokens(*shape):
    return np.random.default_rng(shape[-1]).integers(1, VOCABULARY, shape)


def tensors(**arrays):
    inputs = [http.InferInput(name, array.shape, "INT64") for name, array in arrays.items()]
    for tensor, array in zip(inputs, arrays.values(), strict=True):
        tensor.set_data_from_numpy(array)
    return inputs


def assert_same(answer, result, *, tolerance=0.0):
    for name, array in result.outputs.items():
        np.testing.assert_allclose(answer.as_numpy(name), array, rtol=0, atol=tolerance)


@pytest.mark.parametrize("length", [1, 15, 16, 17, 47, 48, 49, 95, 300])
def test_every_length_answers_as_run_does(client, runtime, length):
    ids = tokens(1, length)
    answer, result = client.infer("tiny", tensors(input_ids=ids)), runtime.run({"input_ids": ids})
    assert_same(answer, result)
    said, run = json.loads(answer.as_numpy("ctx_dispatch").item()), result.dispatch[0]._asdict()
    assert said | {"ms": 0} == run | {"ms": 0}


def test_a_batch_with_a_mask_answers_as_run_does(client, runtime):
    mask = (np.arange(30) < np.array([[30], [3], [17]])).astype(np.int64)
    inputs = {"input_ids": tokens(3, 30) * mask, "attention_mask": mask}
    answer = client.infer("tiny", tensors(**inputs))
    assert_same(answer, runtime.run(inputs), tolerance=1e-6)  # `run` pads where the scheduler does not
    assert answer.as_numpy("ctx_dispatch").shape == (3, 1)


def test_requests_of_different_lengths_are_batched_by_the_server_and_answered_each(client, runtime):
    rows = [tokens(1, length) for length in np.random.default_rng(0).integers(1, 120, 80)]
    waiting = [client.async_infer("tiny", tensors(input_ids=row)) for row in rows]
    for row, answer in zip(rows, waiting, strict=True):
        assert_same(answer.get_result(), runtime.run({"input_ids": row}), tolerance=1e-6)
    statistics = client.get_inference_statistics("tiny")["model_stats"][0]
    assert statistics["execution_count"] < statistics["inference_count"]


def test_a_refusal_is_the_runtimes_own(client):
    with pytest.raises(http.InferenceServerException, match=r"\[400\] input 'input_ids' has a negative token id"):
        client.infer("tiny", tensors(input_ids=-tokens(1, 5)))
