"""The smallest bucket that is within its budgets and good enough, why it is that one, and why none."""

from __future__ import annotations

import pytest

from ctx_runtime.choosing import Chooser
from ctx_runtime.errors import MemoryBudgetError, QualityError, TimeBudgetError
from ctx_runtime.manifest import Activation, BucketRecord, QualityRecord
from ctx_runtime.resource_profile import BatchRange, SubNetwork
from tests.fixtures.bundles import TOLERANCE

SMALL, MIDDLE = SubNetwork(layers=1), SubNetwork(layers=2)


def bucket(low: int, high: int, subnetwork: SubNetwork | None, **fields: object) -> BucketRecord:
    record = BucketRecord(
        min_length=low, max_length=high, opt_length=high, batch=BatchRange(), precision="fp32", threads=1,
        memory_budget=None, backends=("onnxruntime-cpu",), subnetwork=subnetwork, graph="g", unmasked_graph=None,
        tolerance=TOLERANCE, golden=None,
    )  # fmt: skip
    return record.model_copy(update=fields)


def known(low: int, high: int, subnetwork: SubNetwork | None, value: float, ms: float | None = None) -> QualityRecord:
    return QualityRecord(
        min_length=low, max_length=high, subnetwork=subnetwork, metric="f1", value=value, loss=None, examples=9,
        latency_ms=ms,
    )  # fmt: skip


BUCKETS = (bucket(1, 16, SMALL), bucket(17, 32, MIDDLE), bucket(33, 64, None))
QUALITY = (
    known(1, 8, SMALL, 0.9),
    known(9, 16, SMALL, 0.7),
    known(1, 32, MIDDLE, 0.8),
    known(1, 64, None, 0.95),
)


@pytest.mark.parametrize(
    ("length", "floor", "name", "reason"),
    [
        (8, None, "ctx-16", "8 tokens fit 1..16"),
        (8, 0.9, "ctx-16", "8 tokens fit 1..16"),
        (9, 0.7, "ctx-16", "9 tokens fit 1..16"),
        (9, 0.75, "ctx-32", "9 tokens have only f1 0.7 in ctx-16, not 0.75"),
        (9, 0.81, "ctx-64", "9 tokens have only f1 0.7 in ctx-16, not 0.81"),
        (32, 0.9, "ctx-64", "32 tokens have only f1 0.8 in ctx-32, not 0.9"),
        (64, 0.95, "ctx-64", "64 tokens fit 33..64"),
    ],
)
def test_the_smallest_that_is_good_enough(length: int, floor: float | None, name: str, reason: str) -> None:
    choice = Chooser(BUCKETS, QUALITY, floor).choose(length)
    assert (choice.bucket.name, choice.reason) == (name, reason)


def test_no_sub_network_is_good_enough() -> None:
    with pytest.raises(
        QualityError, match=r"12 tokens run nowhere with a quality of 0.99: the best is f1 0.95 in ctx-64"
    ):
        Chooser(BUCKETS, QUALITY, 0.99).choose(12)


def test_what_is_not_known_is_not_good_enough() -> None:
    chooser = Chooser(BUCKETS, QUALITY[:1], 0.5)
    assert chooser.choose(8).bucket.name == "ctx-16"
    with pytest.raises(QualityError, match=r"9 tokens run nowhere with a quality of 0.5: the best is not known"):
        chooser.choose(9)


def test_a_bucket_that_takes_too_long_is_passed_over() -> None:
    buckets = (bucket(1, 16, SMALL, time_budget_ms=2.0), bucket(17, 32, None))
    quality = (known(1, 8, SMALL, 1, ms=1.5), known(9, 16, SMALL, 1, ms=2.5))
    chooser = Chooser(buckets, quality)
    assert chooser.choose(8).bucket.name == "ctx-16"
    assert chooser.choose(9) == (buckets[1], "9 tokens take longer in ctx-16 than its budget")
    with pytest.raises(TimeBudgetError, match="9 tokens take longer than the time budget"):
        Chooser(buckets[:1], quality).choose(9)


def test_time_that_is_not_known_holds_no_bucket_back() -> None:
    slow = bucket(1, 16, SMALL, time_budget_ms=2.0)
    assert Chooser([slow], [known(1, 16, SMALL, 1)]).choose(9).bucket is slow
    assert Chooser([slow]).choose(9).bucket is slow


def test_memory_alone_stays_an_error_of_memory() -> None:
    tight = bucket(1, 16, SMALL, memory_budget=100, activation=Activation(per_token=10))
    with pytest.raises(MemoryBudgetError, match="11 tokens need more memory") as caught:
        Chooser([tight]).choose(11)
    assert caught.value.hint == "the longest input that fits is 10 tokens"
    both = (tight, bucket(17, 32, None))
    assert Chooser(both).choose(11).reason == "11 tokens need more memory in ctx-16 than its budget"
    with pytest.raises(QualityError):
        Chooser(both, [known(1, 16, SMALL, 1)], 0.5).choose(11)


def test_a_row_in_segments_is_held_to_the_quality_of_its_own_length() -> None:
    quality = (known(1, 64, None, 0.9), known(65, 128, None, 0.6))
    Chooser(BUCKETS, quality, 0.6).check_segments(128)
    with pytest.raises(
        QualityError, match=r"100 tokens run nowhere with a quality of 0.7: the best is f1 0.6 in ctx-64"
    ):
        Chooser(BUCKETS, quality, 0.7).check_segments(100)
    with pytest.raises(QualityError, match="the best is not known"):
        Chooser(BUCKETS, quality, 0.6).check_segments(129)
