import numpy as np
import pytest

from ctx_runtime.drift import drift
from ctx_runtime.errors import InputError
from ctx_runtime.histogram import LengthHistogram

ENDS = (32, 64, 128, 256)


def lognormal(median: float, size: int, seed: int) -> tuple[int, ...]:
    drawn = np.random.default_rng(seed).lognormal(np.log(median), 0.9, size)
    return LengthHistogram.of(np.clip(drawn, 1, 2000).astype(int)).by_bucket(ENDS)


def test_the_same_traffic_fits() -> None:
    found = drift(lognormal(60, 20_000, 1), lognormal(60, 20_000, 2), ENDS)
    assert found.verdict == "fits" and found.index < 0.01


def test_longer_traffic_calls_for_a_new_plan() -> None:
    found = drift(lognormal(150, 5_000, 1), lognormal(60, 5_000, 2), ENDS)
    assert found.verdict == "replan" and found.index > 0.25
    assert found.buckets[0].now < found.buckets[0].planned and found.buckets[-1].end is None


def test_between_the_two_it_is_watched() -> None:
    assert drift(lognormal(85, 20_000, 1), lognormal(60, 20_000, 2), ENDS).verdict == "watch"


@pytest.mark.parametrize("seed", range(20))
def test_few_inputs_of_the_same_traffic_raise_no_alarm(seed) -> None:
    found = drift(lognormal(60, 40, seed), lognormal(60, 20_000, 99), ENDS)
    assert found.verdict != "replan" and found.by_chance == pytest.approx(4 * (1 / 40 + 1 / 20_000))


def test_the_index_is_the_sum_of_its_parts_and_symmetric() -> None:
    one, other = lognormal(60, 500, 1), lognormal(90, 500, 2)
    there, back = drift(one, other, ENDS), drift(other, one, ENDS)
    assert there.index == pytest.approx(back.index) == pytest.approx(sum(part.index for part in there.buckets))
    assert all(part.index >= 0 for part in there.buckets)


def test_a_bucket_that_was_never_planned_for_is_finite_and_found() -> None:
    found = drift((50, 50, 0), (100, 0, 0), (32, 256))
    assert found.verdict == "replan" and np.isfinite(found.index)
    assert [(part.end, part.planned, part.now) for part in found.buckets] == [(32, 1, 0.5), (256, 0, 0.5), (None, 0, 0)]


@pytest.mark.parametrize(
    ("recorded", "planned", "message"),
    [((1, 0), (1, 0, 0), "expected 3 counts"), ((0, 0, 0), (1, 0, 0), "no input"), ((1, 0, 0), (0, 0, 0), "no input")],
)
def test_counts_that_can_not_be_compared_are_refused(recorded, planned, message) -> None:
    with pytest.raises(InputError, match=message):
        drift(recorded, planned, (32, 256))
