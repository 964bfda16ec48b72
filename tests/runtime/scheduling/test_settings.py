import pytest

from ctx_runtime.errors import InputError
from ctx_runtime.scheduling import settings
from ctx_runtime.scheduling.settings import Scheduling
from tests.runtime.scheduling.test_queue import LONG, SHORT


@pytest.mark.parametrize(
    ("field", "value"),
    [("workers", 0), ("max_wait_ms", -1), ("max_wait_ms", float("nan")), ("token_budget", 0), ("max_padding", 1.0),
     ("max_padding", float("nan")), ("max_queue", 0), ("memory_limit", 0)],
)  # fmt: skip
def test_a_value_outside_of_its_range_is_named(field, value):
    with pytest.raises(InputError, match=f"{field}: expected"):
        Scheduling(**{field: value})


def test_a_cpu_neither_waits_nor_pads_and_what_is_set_counts_everywhere():
    assert Scheduling().limits("onnxruntime-cpu")[::2] == (0.0, 0.0)
    assert Scheduling().limits("tensorrt").token_budget > Scheduling().limits("onnxruntime-cpu").token_budget
    assert Scheduling(max_wait_ms=5, token_budget=64, max_padding=0.0).limits("tensorrt") == (0.005, 64, 0.0)


@pytest.mark.parametrize(
    ("threads", "backend", "workers"),
    [((1, 1), "onnxruntime-cpu", 8), ((2, 3), "onnxruntime-cpu", 2), ((16, 1), "onnxruntime-cpu", 1),
     ((0, 1), "onnxruntime-cpu", 1), ((1, 1), "tensorrt", 1)],
)  # fmt: skip
def test_workers_share_the_cores(monkeypatch, threads, backend, workers):
    monkeypatch.setattr(settings, "_cores", lambda: 8)
    pairs = zip((SHORT, LONG), threads, strict=True)
    buckets = [bucket.model_copy(update={"threads": count}) for bucket, count in pairs]
    assert Scheduling().worker_count(buckets, backend) == workers
    assert Scheduling(workers=5).worker_count(buckets, backend) == 5
