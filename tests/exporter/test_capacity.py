import numpy as np
import pytest

from ctx_export.capacity import Target, plan_capacity
from ctx_export.costs import DEFAULT_LATENCY, AnalyticLatency
from ctx_export.queueing import Load, response_ms, simulated_response_ms
from ctx_runtime.errors import InputError
from ctx_runtime.histogram import LengthHistogram
from tests.fixtures.traffic import moby_dick

ENDS = (32, 128, 512)


def test_no_fewer_replicas_would_do():
    target = Target(rate=60, ms=250)
    needed = plan_capacity(moby_dick(), DEFAULT_LATENCY, ENDS, target)
    assert [part.name for part in needed.by_bucket] == ["ctx-32", "ctx-128", "ctx-512"]
    assert sum(part.share for part in needed.by_bucket) == pytest.approx(1)
    assert sum(part.rate for part in needed.by_bucket) == pytest.approx(60)
    pooled = needed.pooled
    lengths = moby_dick().lengths
    ms = np.where(lengths > 512, 2 * (3 + 0.243 * 512 + 1.66e-4 * 512**2), 3 + 0.243 * lengths + 1.66e-4 * lengths**2.0)
    assert (lengths > 1024).sum() == 1  # of three segments, once
    ms[lengths > 1024] *= 1.5
    load = Load(60, ms, moby_dick().counts / moby_dick().inputs)
    assert pooled.mean_ms == pytest.approx(load.mean_ms) and pooled.busy == pytest.approx(
        load.busy_servers / pooled.replicas
    )
    for part in (pooled, *needed.by_bucket):
        assert part.paper_ms <= 250 and part.simulated_ms <= 250 and part.busy < 1
    fewer = pooled.replicas - 1
    slower = response_ms(load, fewer, 95), simulated_response_ms(load, fewer, 95, requests=20_000, seed=0)
    assert max(slower) > 250


def test_one_pool_needs_no_more_than_replicas_by_bucket():
    needed = plan_capacity(moby_dick(), DEFAULT_LATENCY, ENDS, Target(rate=200, ms=300))
    assert needed.pooled.replicas <= sum(part.replicas for part in needed.by_bucket)


def test_a_bucket_without_traffic_needs_nothing():
    needed = plan_capacity(LengthHistogram.of([5, 200]), DEFAULT_LATENCY, ENDS, Target(rate=1, ms=400, requests=1000))
    assert [part.name for part in needed.by_bucket] == ["ctx-32", "ctx-512"]


def test_a_time_that_no_replica_can_keep_is_refused_with_the_bucket():
    with pytest.raises(InputError, match=r"ctx-512 take up to \d+ ms alone") as caught:
        plan_capacity(moby_dick(), DEFAULT_LATENCY, ENDS, Target(rate=1, ms=50))
    assert caught.value.hint


def test_long_requests_run_in_segments_with_their_overlap():
    one = plan_capacity(
        LengthHistogram.of([500]),
        AnalyticLatency(1, 1, 0),
        (128,),
        Target(rate=0.1, ms=2000, requests=1000),
        overlap=32,
    )
    assert one.pooled.mean_ms == 5 * 129  # 128 tokens, then 96 more with each segment


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rate": 0}, "0 requests a second"),
        ({"ms": -1}, "in -1 ms"),
        ({"percent": 100}, "100 %"),
        ({"requests": 9}, "9 requests"),
    ],
)
def test_a_target_that_means_nothing_is_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        Target(**({"rate": 1.0, "ms": 100.0} | wrong))
