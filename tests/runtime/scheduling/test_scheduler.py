import threading

import numpy as np
import pytest

from ctx_runtime import Runtime
from ctx_runtime.errors import CtxError, DeadlineError, InputError, OverloadError
from ctx_runtime.scheduling.settings import Scheduling
from tests.fixtures.bundles import VOCABULARY, write_tiny_bundle

LENGTHS = [3, 20, 3, 130, 48, 16, 17, 20, 1, 300]


def ids(length, seed=0):
    return {"input_ids": np.random.default_rng([length, seed]).integers(3, VOCABULARY, length)}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


def opened(bundle, **settings):
    return Runtime.open(bundle, share_weights="off", scheduling=Scheduling(**settings))


def assert_same(result, other):
    assert result.outputs.keys() == other.outputs.keys()
    for name, array in other.outputs.items():
        np.testing.assert_allclose(result.outputs[name], array, rtol=0, atol=1e-6)


def test_answers_equal_run(bundle):
    batch = {"input_ids": np.stack([ids(9, seed)["input_ids"] for seed in range(20)])}
    with opened(bundle, workers=2) as runtime:
        inputs = [*map(ids, LENGTHS), batch]
        for given, future in zip(inputs, [runtime.submit(given) for given in inputs], strict=True):
            result, expected = future.result(), runtime.run(given)
            assert_same(result, expected)
            assert [run.length for run in result.dispatch] == [run.length for run in expected.dispatch]
            assert [run.segments for run in result.dispatch] == [run.segments for run in expected.dispatch]
        assert runtime.stats().requests.finished == len(inputs)
    assert not any(thread.name == "ctx-runtime" for thread in threading.enumerate())
