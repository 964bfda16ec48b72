import pytest

from ctx_export.costs import DEFAULT_LATENCY, CostModel
from ctx_export.planned_profile import DEFAULTS, planned_profile, write_profile
from ctx_export.planning import Budget, plan_buckets
from ctx_export.profiles import load_profile, profile_names
from ctx_runtime.errors import InputError
from ctx_runtime.histogram import LengthHistogram
from tests.fixtures.traffic import moby_dick


@pytest.fixture(scope="module")
def plan():
    return plan_buckets(moby_dick(), CostModel(DEFAULT_LATENCY, "batch", 8), Budget(buckets=4))


@pytest.mark.parametrize("base", [None, *profile_names()])
def test_what_is_written_is_what_a_build_loads(plan, tmp_path, base) -> None:
    profile = planned_profile(plan, "mine", DEFAULTS if base is None else load_profile(base), moby_dick())
    write_profile(profile, tmp_path / "mine.yaml")
    loaded = load_profile(tmp_path / "mine.yaml")
    assert loaded == profile
    assert [entry.max_length for entry in loaded.resolve()] == list(plan.chosen.ends)
    assert sum(loaded.planned_inputs) == moby_dick().inputs and len(loaded.planned_inputs) == len(plan.chosen.ends) + 1
    assert [entry.opt_length for entry in loaded.resolve()] == [bucket.opt_length for bucket in plan.buckets()]


def test_settings_come_from_the_bucket_that_holds_the_length(plan) -> None:
    base = load_profile("edge-cpu")
    resolved = planned_profile(plan, "mine", base).resolve()
    for bucket in resolved:
        like = next((old for old in base.resolve() if old.max_length >= bucket.max_length), base.resolve()[-1])
        assert (bucket.batch, bucket.memory_budget, bucket.backends) == (like.batch, like.memory_budget, like.backends)


def test_short_buckets_shrink_the_overlap() -> None:
    short = plan_buckets(LengthHistogram.of([3, 9, 12]), CostModel(DEFAULT_LATENCY), Budget())
    assert planned_profile(short, "mine").overflow.overlap == 3


def test_a_name_that_no_profile_can_have_is_refused(plan) -> None:
    with pytest.raises(InputError, match="name"):
        planned_profile(plan, "my plan")


def test_only_yaml_is_written(plan, tmp_path) -> None:
    profile = planned_profile(plan, "mine")
    with pytest.raises(InputError, match=r"does not end in \.yaml"):
        write_profile(profile, tmp_path / "mine.txt")
    with pytest.raises(InputError, match="can't be written"):
        write_profile(profile, tmp_path / "absent/mine.yaml")
