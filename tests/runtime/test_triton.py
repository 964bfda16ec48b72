"""The router by itself; `tests/cross/test_triton_server.py` runs it in a real server."""

import json

import numpy as np
import pytest

from ctx_export.triton_repository import write_repository
from ctx_runtime.bundle import Bundle
from ctx_runtime.errors import BundleError
from ctx_runtime.triton import TritonPythonModel
from tests.fixtures.bundles import expected, write_tiny_bundle
from tests.fixtures.triton import stand_in


@pytest.fixture
def model(tmp_path):
    repository = write_repository(Bundle.open(write_tiny_bundle(tmp_path / "tiny.bundle")), tmp_path / "models")
    return repository.root / "tiny"


def loaded(model):
    router = TritonPythonModel()
    router.initialize({"model_repository": str(model), "model_version": "1"})
    return router


def ids(length):
    return np.arange(1, length + 1)[None] % 60


def test_requests_that_wait_together_are_answered_each(model, monkeypatch):
    stand_in(monkeypatch)
    router, lengths = loaded(model), (5, 40, 6)
    responses = router.execute([{"input_ids": ids(length)} for length in lengths])
    for response, length in zip(responses, lengths, strict=True):
        *outputs, dispatch = response.output_tensors
        for output in outputs:
            np.testing.assert_allclose(output.array, expected(ids(length))[output.name], atol=1e-6)
        assert json.loads(dispatch.array[0])["length"] == length
    router.finalize()


def test_a_request_that_is_refused_leaves_the_others_alone(model, monkeypatch):
    stand_in(monkeypatch)
    good, bad = loaded(model).execute([{"input_ids": ids(5)}, {"input_ids": -ids(5)}])
    assert good.error is None and good.output_tensors[0].array.shape == (1, 5, 4)
    assert bad.error.args == ("input 'input_ids' has a negative token id", 400)


def test_a_damaged_bundle_does_not_load(model):
    (model / "1/bundle/graphs/weights.bin").write_bytes(b"")
    with pytest.raises(BundleError):
        loaded(model)
