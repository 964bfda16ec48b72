from dataclasses import replace

import numpy as np
import pytest

from ctx_export.boundaries import Boundaries, MemoryLimit
from ctx_export.costs import DEFAULT_LATENCY, AnalyticLatency, CostModel, TrafficCost
from ctx_export.planning import Budget, cut_long, plan_buckets, recommend
from ctx_runtime.errors import InputError
from ctx_runtime.histogram import LengthHistogram
from ctx_runtime.manifest import Activation
from tests.fixtures.traffic import moby_dick

FIXED_SHAPES = CostModel(DEFAULT_LATENCY, "bucket")
SMALL = LengthHistogram.of([10] * 50 + [12] * 50 + [100] * 10 + [110] * 10)


def doublings(longest: int, count: int) -> tuple[int, ...]:
    """The usual powers of two: `count` of them up to the first that holds `longest`, which is cut to it."""
    last = (longest - 1).bit_length()
    return (*(2**power for power in range(last - count + 1, last)), longest)


@pytest.mark.parametrize("count", [2, 3, 4, 5, 8, 9])
def test_moby_dick_costs_15_percent_less_than_the_usual_powers_of_two(count) -> None:
    traffic = moby_dick()
    plan = plan_buckets(traffic, FIXED_SHAPES, Budget(buckets=count))
    ends = doublings(traffic.longest, count)
    usual = TrafficCost.of(traffic, FIXED_SHAPES, ends=ends).total_ms(ends)
    assert plan.curve[count - 1].total_ms <= 0.85 * usual


def test_the_recommended_plan_costs_15_percent_less_than_any_choice_of_powers_of_two() -> None:
    plan = plan_buckets(moby_dick(), FIXED_SHAPES, Budget())
    assert plan.chosen.total_ms <= 0.85 * plan.powers_of_two[plan.count - 1].total_ms


def test_no_choice_of_powers_of_two_or_steps_is_cheaper() -> None:
    plan = plan_buckets(moby_dick(), FIXED_SHAPES, Budget())
    assert plan.count == 8 and len(plan.curve) == 9
    for mine, powers, steps in zip(plan.curve, plan.powers_of_two, plan.fixed_steps, strict=True):
        assert mine.total_ms <= min(powers.total_ms, steps.total_ms)
    assert plan.least_ms < plan.chosen.total_ms


def test_buckets_tile_and_their_shares_add_up() -> None:
    plan = plan_buckets(moby_dick(), CostModel(DEFAULT_LATENCY, "batch", 8), Budget(buckets=5))
    buckets = plan.buckets()
    assert [bucket.min_length for bucket in buckets] == [1, *(bucket.max_length + 1 for bucket in buckets[:-1])]
    assert sum(bucket.share for bucket in buckets) == pytest.approx(1)
    assert all(bucket.min_length <= bucket.opt_length <= bucket.max_length for bucket in buckets)
    assert any(bucket.opt_length < bucket.max_length for bucket in buckets)


def test_fixed_shapes_are_tuned_for_their_end() -> None:
    buckets = plan_buckets(SMALL, FIXED_SHAPES, Budget()).buckets()
    assert all(bucket.opt_length == bucket.max_length for bucket in buckets)


def test_one_bucket_is_enough_where_nothing_is_padded() -> None:
    plan = plan_buckets(moby_dick(), CostModel(DEFAULT_LATENCY, "exact"), Budget())
    assert plan.count == 1 and plan.padding_share() == pytest.approx(0, abs=1e-9)
    assert plan.chosen.total_ms == pytest.approx(plan.least_ms)


def test_it_stops_where_more_buckets_buy_little() -> None:
    plan = plan_buckets(SMALL, CostModel(AnalyticLatency(0, 1, 0)), Budget(), min_gain=0.1)
    assert plan.count == 2 and plan.chosen.ends == (12, 110)
    assert plan.gain(2) == pytest.approx(100 / 3400) and plan.gain(4) is None


@pytest.mark.parametrize(("costs", "count"), [([100, 99.5, 60, 59], 3), ([100, 99, 97.9, 97], 1), ([5], 1)])
def test_a_small_step_before_a_large_one_does_not_end_the_search(costs, count) -> None:
    assert recommend([Boundaries((1,), cost) for cost in costs], min_gain=0.02) == count


def test_padding_is_counted_in_tokens() -> None:
    plan = plan_buckets(SMALL, CostModel(AnalyticLatency(9, 2, 1)), Budget(buckets=1))
    assert plan.padding_share() == pytest.approx(1 - SMALL.tokens / (120 * 110))


def test_the_last_bucket_may_end_beyond_all_traffic() -> None:
    plan = plan_buckets(SMALL, FIXED_SHAPES, Budget(buckets=3), max_length=512)
    assert plan.chosen.ends[-1] == 512 and plan.buckets()[-1].share == 0
    with pytest.raises(InputError, match="110 tokens is longer than 64"):
        plan_buckets(SMALL, FIXED_SHAPES, Budget(), max_length=64)


def test_longer_inputs_are_planned_for_as_their_segments() -> None:
    cut = cut_long(LengthHistogram.of([40, 64, 65, 65, 200]), 64, overlap=16)
    assert cut.lengths.tolist() == [40, 64] and cut.counts.tolist() == [1, 1 + 2 * 2 + 4]
    assert cut_long(SMALL, 110, 16).to_json() == SMALL.to_json()
    with pytest.raises(InputError, match="nothing of their own"):
        cut_long(SMALL, 64, overlap=64)


def test_build_time_and_disk_limit_the_number_of_buckets() -> None:
    assert Budget(build_seconds=20, bucket_seconds=6).most_buckets() == 3
    assert Budget(disk_bytes=950, shared_bytes=500, bucket_bytes=100).most_buckets() == 4
    assert Budget(buckets=2, disk_bytes=10**9, shared_bytes=1, bucket_bytes=1).most_buckets() == 2
    with pytest.raises(InputError, match="one bucket takes 600 bytes of disk, more than the 550"):
        Budget(disk_bytes=550, shared_bytes=500, bucket_bytes=100).most_buckets()
    with pytest.raises(InputError, match="at least 1 bucket"):
        Budget(buckets=0).most_buckets()


def test_memory_moves_the_boundaries_of_real_traffic() -> None:
    free = plan_buckets(moby_dick(), FIXED_SHAPES, Budget(buckets=3))
    memory = MemoryLimit(1_400_000, 0, Activation(per_token=1000))
    tight = plan_buckets(moby_dick(), FIXED_SHAPES, Budget(buckets=3, memory=memory))
    assert 1000 * sum(tight.chosen.ends) <= 1_400_000 < 1000 * sum(free.chosen.ends)
    assert free.chosen.total_ms < tight.chosen.total_ms < 1.5 * free.chosen.total_ms


def test_resampling_says_how_far_the_ends_move() -> None:
    told = []
    plan = plan_buckets(
        moby_dick(), FIXED_SHAPES, Budget(buckets=4), resamples=10, on_progress=lambda *event: told.append(event)
    )
    stability = plan.stability
    assert stability is not None and told[-1] == ("stability", 9, 10)
    assert all(low <= end <= high for (low, high), end in zip(stability.ends, plan.chosen.ends, strict=True))
    assert stability.ends[0][0] < stability.ends[0][1]
    assert 0 <= stability.regret_mean <= stability.regret_p95 < 0.05


def test_a_small_sample_is_less_stable() -> None:
    few = LengthHistogram.of(np.random.default_rng(1).choice(moby_dick().lengths, 40))
    plans = [plan_buckets(sample, FIXED_SHAPES, Budget(buckets=4), resamples=20) for sample in (few, moby_dick())]
    small, large = (plan.stability for plan in plans)
    assert small is not None and large is not None and small.regret_mean > large.regret_mean


def test_json_holds_what_the_table_shows() -> None:
    plan = plan_buckets(SMALL, FIXED_SHAPES, Budget(buckets=2))
    answer = replace(plan, stability=None).to_json()
    assert answer["inputs"] == 120 and answer["stability"] is None
    assert [bucket["max_length"] for bucket in answer["buckets"]] == [12, 110]
    assert answer["one_more_saves"] == plan.gain(2) and len(answer["curve"]) == 3
