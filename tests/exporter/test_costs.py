import numpy as np
import pytest

from ctx_export.costs import AnalyticLatency, CostModel, MeasuredLatency, TrafficCost
from ctx_runtime.errors import InputError
from ctx_runtime.histogram import LengthHistogram

LINEAR = AnalyticLatency(0, 1, 0)


def test_measured_points_are_joined_and_the_last_line_goes_on() -> None:
    latency = MeasuredLatency((10, 20, 40), (3.0, 5.0, 4.0))
    assert latency.fixed_ms == 1.0
    assert (latency.row_ms(np.array([5, 10, 15, 30])) + latency.fixed_ms).tolist() == [2, 3, 4, 5]
    rising = MeasuredLatency((10, 20), (3.0, 5.0))
    assert (rising.row_ms(np.array([20, 30])) + rising.fixed_ms).tolist() == [5, 7]


@pytest.mark.parametrize("points", [((10,), (1.0,)), ((20, 10), (1.0, 2.0)), ((10, 20), (1.0, 0.0))])
def test_too_few_or_unordered_points_are_refused(points) -> None:
    with pytest.raises(InputError, match="two lengths or more"):
        MeasuredLatency(*points)


@pytest.mark.parametrize("terms", [(-1, 1, 0), (1, 0, 0), (0, float("inf"), 0), (0, float("nan"), 1)])
def test_a_latency_that_does_not_grow_is_refused(terms) -> None:
    with pytest.raises(InputError, match="no latency grows as"):
        AnalyticLatency(*terms)


def test_the_padding_rules_differ_as_they_say() -> None:
    traffic = LengthHistogram.of([10, 10, 30, 90])
    totals = {
        (rule, batch): TrafficCost.of(traffic, CostModel(LINEAR, rule, batch)).total_ms((30, 90))
        for rule, batch in (("exact", 1), ("batch", 1), ("batch", 2), ("batch", 64), ("bucket", 1))
    }
    assert totals["exact", 1] == pytest.approx(140) == totals["batch", 1]
    assert totals["bucket", 1] == pytest.approx(180) == totals["batch", 64]
    assert totals["batch", 2] == pytest.approx(3 * (4 / 9 * 10 + 5 / 9 * 30) + 90)


def test_rows_of_a_batch_share_the_fixed_part_of_a_call() -> None:
    traffic, latency = LengthHistogram.of([10] * 8), AnalyticLatency(4, 1, 0)
    assert TrafficCost.of(traffic, CostModel(latency, "bucket", 4)).total_ms((10,)) == 8 * (1 + 10)


def test_empty_candidates_cost_nothing() -> None:
    cost = TrafficCost.of(LengthHistogram.of([8]), CostModel(LINEAR, "batch", 4), ends=(2, 5, 16))
    assert cost.bucket_ms(0).tolist() == pytest.approx([0, 0, 8, 8])


def test_rows_of_large_batches_of_long_traffic_stay_finite() -> None:
    lengths = np.random.default_rng(0).integers(1, 3000, 200_000)
    cost = TrafficCost.of(LengthHistogram.of(lengths), CostModel(LINEAR, "batch", 4096))
    row = cost.bucket_ms(0)
    assert np.isfinite(row).all() and row[-1] == pytest.approx(200_000 * 2999, rel=1e-3)


def test_exact_is_batch_1() -> None:
    with pytest.raises(InputError, match="no batch of 2 under the padding rule 'exact'"):
        CostModel(LINEAR, "exact", 2)
