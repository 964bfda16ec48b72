"""The dynamic programme against every set of boundaries, priced by a second implementation."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctx_export.boundaries import MemoryLimit, best_boundaries
from ctx_export.costs import AnalyticLatency, CostModel, TrafficCost
from ctx_runtime.errors import InputError
from ctx_runtime.histogram import LengthHistogram
from ctx_runtime.manifest import Activation

LATENCIES = st.builds(
    AnalyticLatency,
    fixed_ms=st.floats(0, 5),
    linear_ms=st.floats(0.01, 2),
    quadratic_ms=st.floats(0, 0.05),
)
MODELS = st.one_of(
    st.builds(CostModel, LATENCIES, st.just("exact")),
    st.builds(CostModel, LATENCIES, st.sampled_from(["batch", "bucket"]), st.integers(1, 3)),
)
HISTOGRAMS = st.dictionaries(st.integers(1, 60), st.integers(1, 5), min_size=1, max_size=7)


def row_ms(model: CostModel, length: int) -> float:
    latency = model.latency
    return latency.fixed_ms / model.batch + latency.linear_ms * length + latency.quadratic_ms * length**2


def bucket_ms(model: CostModel, members: list[int], end: int) -> float:
    """What single inputs cost in a bucket that ends at `end`: every batch that could be drawn, one by one."""
    if model.rule == "bucket":
        return len(members) * row_ms(model, end)
    batches = list(itertools.product(members, repeat=model.batch))
    return len(members) * sum(row_ms(model, max(batch)) for batch in batches) / len(batches)


def every_choice(counts: dict[int, int], model: CostModel, most: int):
    """Ends and cost of every set of at most `most` buckets."""
    lengths = sorted(counts)
    inputs = [length for length in lengths for _ in range(counts[length])]
    for size in range(min(most, len(lengths))):
        for inner in itertools.combinations(lengths[:-1], size):
            ends = (*inner, lengths[-1])
            starts = (0, *inner)
            members = [[n for n in inputs if low < n <= high] for low, high in zip(starts, ends, strict=True)]
            yield ends, sum(bucket_ms(model, group, end) for group, end in zip(members, ends, strict=True))


def histogram(counts: dict[int, int]) -> LengthHistogram:
    return LengthHistogram.of([length for length, count in counts.items() for _ in range(count)])


@settings(max_examples=200, deadline=None)
@given(HISTOGRAMS, MODELS, st.integers(1, 5))
def test_the_cost_equals_the_cheapest_of_all_choices(counts, model, most) -> None:
    cost = TrafficCost.of(histogram(counts), model)
    for count, plan in enumerate(best_boundaries(cost, most), 1):
        cheapest = min(total for _, total in every_choice(counts, model, count))
        assert plan.total_ms == pytest.approx(cheapest, rel=1e-9)
        assert cost.total_ms(plan.ends) == pytest.approx(plan.total_ms, rel=1e-9)


@settings(max_examples=200, deadline=None)
@given(HISTOGRAMS, MODELS, st.integers(2, 5), st.floats(1, 3), st.integers(0, 3))
def test_within_a_memory_budget_too(counts, model, most, room, per_token_pair) -> None:
    activation = Activation(per_token=5, per_token_pair=per_token_pair)
    needed = {length: activation.bytes_for(1, length) for length in counts}
    limit = int(needed[max(counts)] * room)
    memory = MemoryLimit(limit + 1000, weights_bytes=1000, activation=activation)
    plans = best_boundaries(TrafficCost.of(histogram(counts), model), most, memory=memory)
    for count, plan in enumerate(plans, 1):
        fitting = [
            total for ends, total in every_choice(counts, model, count) if sum(needed[end] for end in ends) <= limit
        ]
        assert sum(needed[end] for end in plan.ends) <= limit
        assert plan.total_ms == pytest.approx(min(fitting), rel=1e-6)


def test_ends_may_be_restricted() -> None:
    cost = TrafficCost.of(LengthHistogram.of([3, 5, 9, 30]), CostModel(AnalyticLatency(0, 1, 0)), ends=(4, 8, 16))
    plans = best_boundaries(cost, 3, allowed=(4, 8, 16, 30))
    assert [plan.ends for plan in plans] == [(30,), (8, 30), (8, 16, 30)]
    assert [plan.total_ms for plan in plans] == [30 * 4, 8 * 2 + 30 * 2, 8 * 2 + 16 + 30]


def test_a_budget_below_the_longest_bucket_names_the_longest_that_fits() -> None:
    cost = TrafficCost.of(LengthHistogram.of([7, 50, 60]), CostModel(AnalyticLatency(0, 1, 0)))
    memory = MemoryLimit(600, weights_bytes=100, activation=Activation(per_token=10))
    with pytest.raises(InputError, match="60 tokens and the weights take 700 bytes") as caught:
        best_boundaries(cost, 3, memory=memory)
    assert caught.value.hint == "--max-length 50 is the longest that fits"


def test_more_buckets_than_lengths_are_not_made_up() -> None:
    cost = TrafficCost.of(LengthHistogram.of(np.array([4, 4, 9])), CostModel(AnalyticLatency(0, 1, 0)))
    assert [plan.ends for plan in best_boundaries(cost, 8)] == [(9,), (4, 9)]
