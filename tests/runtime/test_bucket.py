"""Buckets tile `1..max`; a length finds the smallest bucket that holds it."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ctx_runtime.bucket import MAX_LENGTH, Bucket, LocatedError, check_tiling, find_bucket


def make(low: int, high: int) -> Bucket:
    return Bucket(min_length=low, max_length=high, opt_length=high)


def tile(ends: list[int]) -> list[Bucket]:
    return [make(low + 1, high) for low, high in itertools.pairwise([0, *ends])]


@pytest.mark.parametrize(
    ("length", "index"), [(1, 0), (15, 0), (16, 0), (17, 1), (47, 1), (48, 1), (49, None), (MAX_LENGTH, None)]
)
def test_a_length_equal_to_the_end_belongs_to_the_bucket(length: int, index: int | None) -> None:
    assert find_bucket(tile([16, 48]), length) == index


@given(st.sets(st.integers(1, 500), min_size=1).map(sorted), st.integers(1, 600))
def test_the_smallest_bucket_that_holds_a_length(ends: list[int], length: int) -> None:
    buckets = tile(ends)
    check_tiling(buckets)
    holding = [index for index, bucket in enumerate(buckets) if length in bucket]
    assert holding == ([find_bucket(buckets, length)] if length <= ends[-1] else [])


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(0, 20)), min_size=1, max_size=5))
def test_tiling_is_what_covers_every_length_once_in_order(ranges: list[tuple[int, int]]) -> None:
    buckets = [make(low, low + more) for low, more in ranges]
    covered = [length for bucket in buckets for length in range(bucket.min_length, bucket.max_length + 1)]
    if covered == list(range(1, len(covered) + 1)):
        check_tiling(buckets)
    else:
        with pytest.raises(LocatedError):
            check_tiling(buckets)


@pytest.mark.parametrize(
    ("ranges", "key", "message"),
    [
        ([], ("buckets",), "at least one"),
        ([(2, 16)], ("buckets", 0), "a gap before ctx-16: it starts at 2, expected 1"),
        ([(1, 16), (18, 48)], ("buckets", 1), "a gap before ctx-48: it starts at 18, expected 17"),
        ([(1, 16), (16, 48)], ("buckets", 1), "an overlap before ctx-48: it starts at 16, expected 17"),
        ([(17, 48), (1, 16)], ("buckets", 0), "a gap before ctx-48"),
    ],
)
def test_what_does_not_tile_is_located(ranges: list[tuple[int, int]], key: tuple[str | int, ...], message: str) -> None:
    with pytest.raises(LocatedError, match=message) as caught:
        check_tiling([make(low, high) for low, high in ranges])
    assert caught.value.key == key


@pytest.mark.parametrize(
    ("low", "high", "opt"), [(0, 1, 1), (2, 1, 1), (1, 16, 17), (5, 16, 4), (1, MAX_LENGTH + 1, 1)]
)
def test_an_impossible_bucket(low: int, high: int, opt: int) -> None:
    with pytest.raises(ValidationError):
        Bucket(min_length=low, max_length=high, opt_length=opt)


def test_the_name_is_that_of_the_end() -> None:
    assert make(1, 512).name == "ctx-512"
