import json

import numpy as np
import pytest

from ctx_runtime.errors import InputError
from ctx_runtime.histogram import LengthHistogram


def test_lengths_are_counted() -> None:
    histogram = LengthHistogram.of([5, 3, 5, 40])
    assert histogram.lengths.tolist() == [3, 5, 40] and histogram.counts.tolist() == [1, 2, 1]
    assert (histogram.inputs, histogram.tokens, histogram.longest) == (4, 53, 40)


@pytest.mark.parametrize("lengths", [[], [0], [-1], [1.5], [2**25], ["a"], [[1]], [float("nan")]])
def test_anything_but_lengths_is_refused(lengths) -> None:
    with pytest.raises(InputError):
        LengthHistogram.of(lengths)


def test_json_comes_back_the_same() -> None:
    histogram = LengthHistogram.of(np.random.default_rng(0).integers(1, 50, 200))
    assert LengthHistogram.from_json(json.dumps(histogram.to_json())).to_json() == histogram.to_json()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"lengths": {"0": 1}}', '{"lengths": {}}', '{"lengths": {"x": 1}}'])
def test_json_that_is_no_histogram_is_one_line(text) -> None:
    with pytest.raises(InputError) as caught:
        LengthHistogram.from_json(text)
    assert "\n" not in str(caught.value) and caught.value.hint


def test_percentiles_are_lengths_that_occur() -> None:
    histogram = LengthHistogram.of([1, 1, 1, 9])
    assert [histogram.percentile(percent) for percent in (1, 75, 76, 100)] == [1, 1, 9, 9]


def test_inputs_belong_to_buckets_by_their_inclusive_end() -> None:
    assert LengthHistogram.of([1, 8, 9, 16, 17, 99]).by_bucket((8, 16, 32)) == (2, 2, 1, 1)
