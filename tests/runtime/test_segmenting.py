import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctx_runtime.manifest import OutputSpec, SpecialTokens
from ctx_runtime.segmenting import find_framing, fuse, plan_segments

TOKENS = OutputSpec(name="t", dtype="float32", shape=("batch", "length", 2), fusion="concat")


def pooled(fusion, *, normalized=False):
    return OutputSpec(name="p", dtype="float32", shape=("batch", 2), fusion=fusion, normalized=normalized)


@st.composite
def plans(draw):
    prefix, suffix = draw(st.integers(0, 3)), draw(st.integers(0, 3))
    window = draw(st.integers(prefix + suffix + 1, 40))
    overlap = draw(st.integers(0, window - prefix - suffix - 1))
    length = draw(st.integers(window + 1, 300))
    plan = plan_segments(length, window=window, overlap=overlap, prefix=prefix, suffix=suffix)
    return plan, length, window, overlap


@given(plans())
def test_every_content_position_is_owned_once_by_a_full_window_that_sees_it(case):
    plan, length, window, overlap = case
    content = length - plan.prefix - plan.suffix
    owned = [position for segment in plan.segments for position in range(*segment.owned)]
    assert owned == list(range(content))
    width = window - plan.prefix - plan.suffix
    for segment in plan.segments:
        assert len(segment.indices) == window
        assert segment.start <= segment.owned[0] < segment.owned[1] <= segment.start + width
        assert list(segment.indices[: plan.prefix]) == list(range(plan.prefix))
        assert list(segment.indices[window - plan.suffix :]) == list(range(length - plan.suffix, length))
    starts = [segment.start for segment in plan.segments]
    assert starts[0] == 0 and starts[-1] == content - width
    gaps = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert max(gaps) <= width - overlap and max(gaps) - min(gaps) <= 1
    assert (len(gaps) - 1) * (width - overlap) < content - width  # one window fewer would overlap less


@given(plans())
def test_tokens_of_overlapping_windows_join_to_the_row(case):
    plan, length, _, _ = case
    row = np.arange(2 * length, dtype=np.float32).reshape(length, 2)
    fused = fuse(plan, [row[segment.indices] for segment in plan.segments], TOKENS)
    np.testing.assert_array_equal(fused, row)


def test_an_overlap_is_split_where_both_windows_have_as_much_context():
    plan = plan_segments(17, window=10, overlap=3)
    assert [segment.start for segment in plan.segments] == [0, 7]
    assert [segment.owned for segment in plan.segments] == [(0, 9), (9, 17)]


def test_windows_are_evenly_spaced_and_full():
    plan = plan_segments(21, window=10, overlap=0)
    assert [segment.start for segment in plan.segments] == [0, 5, 11]
    assert [segment.owned for segment in plan.segments] == [(0, 8), (8, 13), (13, 21)]


@pytest.mark.parametrize(("length", "overlap"), [(10, 0), (11, 10), (11, 12)])
def test_what_needs_no_segments_or_leaves_a_window_nothing_is_refused(length, overlap):
    with pytest.raises(ValueError, match="no segments"):
        plan_segments(length, window=10, overlap=overlap)


def test_mean_weights_each_window_by_the_tokens_it_owns():
    plan = plan_segments(11, window=10, overlap=0)  # owns 6 and 5
    rows = [np.array([11, 0], np.float32), np.array([0, 11], np.float32)]
    np.testing.assert_allclose(fuse(plan, rows, pooled("mean")), [6, 5])
    fused = fuse(plan, rows, pooled("mean", normalized=True))
    np.testing.assert_allclose(fused, np.array([6, 5]) / np.sqrt(61), rtol=1e-6)
    assert fused.dtype == np.float32


def test_max_takes_the_largest_of_each_element():
    plan = plan_segments(11, window=10, overlap=0)
    rows = [np.array([3, -1], np.float32), np.array([2, 5], np.float32)]
    np.testing.assert_array_equal(fuse(plan, rows, pooled("max")), [3, 5])


def test_attention_prefers_windows_close_to_the_mean():
    plan = plan_segments(30, window=10, overlap=0)
    common, outlier = np.array([1, 0], np.float32), np.array([0, 1], np.float32)
    mean = fuse(plan, [common, common, outlier], pooled("mean"))
    attended = fuse(plan, [common, common, outlier], pooled("attention"))
    assert attended[0] > mean[0] and attended.sum() == pytest.approx(1)
    np.testing.assert_allclose(fuse(plan, [common] * 3, pooled("attention")), common)


@pytest.mark.parametrize(
    ("tokens", "framing"),
    [([1, 5, 6, 2], (1, 1)), ([1, 2], (1, 1)), ([5, 6, 2], (0, 0)), ([1, 5, 6], (0, 0)), ([1], (0, 0))],
)
def test_framing_is_found_only_where_both_ends_have_it(tokens, framing):
    assert find_framing(np.array(tokens), SpecialTokens(prefix=(1,), suffix=(2,))) == framing


def test_a_row_without_special_tokens_has_no_framing():
    assert find_framing(np.array([1, 2]), SpecialTokens()) == (0, 0)
