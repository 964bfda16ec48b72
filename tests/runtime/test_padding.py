import numpy as np
import pytest

from ctx_runtime.errors import BackendError, InputError
from ctx_runtime.manifest import InputSpec
from ctx_runtime.padding import RowLayout
from tests.fixtures.bundles import MASK, MEAN, STATES, TOKENS

KINDS = InputSpec(name="token_type_ids", dtype="int64", shape=("batch", "length"), pad=0, role="segment-ids")
FEATURES = InputSpec(name="features", dtype="float32", shape=("batch", "length", 3), pad=-1.5)
FLAG = InputSpec(name="flag", dtype="float32", shape=("batch", 2), pad=0)


TEXT = RowLayout((TOKENS, MASK, KINDS), (STATES, MEAN))


def test_a_row_without_a_batch_axis_is_a_batch_of_one():
    rows, batched = TEXT.read({"input_ids": [4, 5, 6]})
    assert not batched and [row.length for row in rows] == [3]
    np.testing.assert_array_equal(rows[0].arrays["token_type_ids"], [[0, 0, 0]])
    assert "attention_mask" not in rows[0].arrays


def test_the_mask_says_where_each_row_ends():
    rows, batched = TEXT.read({"input_ids": [[4, 5, 0], [6, 7, 8]], "attention_mask": [[1, 1, 0], [1, 1, 1]]})
    assert batched and [row.arrays["input_ids"].tolist() for row in rows] == [[[4, 5]], [[6, 7, 8]]]


def test_a_full_row_is_not_copied():
    ids = np.array([[4, 5, 6]])
    rows, _ = TEXT.read({"input_ids": ids})
    assert TEXT.stack(rows, frozenset({"input_ids"}))["input_ids"] is ids


def test_one_full_row_of_arrays_is_taken_as_it_came():
    inputs = {"token_type_ids": np.zeros((1, 3), np.int64), "input_ids": np.array([[4, 5, 6]])}
    row = TEXT.whole_row(inputs)
    assert row is not None and row.length == 3
    assert all(row.arrays[name] is array for name, array in inputs.items())
    with pytest.raises(InputError, match="negative"):
        TEXT.whole_row({**inputs, "input_ids": np.array([[4, -5, 6]])})


@pytest.mark.parametrize(
    "changes",
    [
        {"input_ids": [[4, 5, 6]]},
        {"input_ids": np.array([[4, 5, 6]], np.int32)},
        {"input_ids": np.array([4, 5, 6])},
        {"input_ids": np.array([[4, 5]])},
        {"input_ids": np.array([[4, 5, 6], [7, 8, 9]])},
        {"input_ids": np.zeros((1, 0), np.int64), "token_type_ids": np.zeros((1, 0), np.int64)},
        {"attention_mask": np.ones((1, 3), np.int64)},
        {"token_type_ids": None},
    ],
)
def test_anything_else_is_left_to_be_read(changes):
    inputs = {"token_type_ids": np.zeros((1, 3), np.int64), "input_ids": np.array([[4, 5, 6]])} | changes
    assert TEXT.whole_row({name: array for name, array in inputs.items() if array is not None}) is None


def test_an_input_with_a_length_is_needed_even_if_the_runtime_could_fill_it_in():
    layout = RowLayout((FLAG, MASK), (MEAN,))
    assert layout.read({"flag": [1, 2], "attention_mask": [1, 1, 0]})[0][0].length == 2
    with pytest.raises(InputError, match="'attention_mask' is missing"):
        layout.read({"flag": [1, 2]})


def test_a_batch_is_padded_to_its_longest_with_each_inputs_own_value():
    layout = RowLayout((TOKENS, MASK, FEATURES, FLAG), (STATES,))
    rows = [layout.read({"input_ids": [9] * n, "features": np.ones((n, 3)), "flag": [n, n]})[0][0] for n in (1, 3)]
    feeds = layout.stack(rows, frozenset({"input_ids", "attention_mask", "features", "flag"}))
    assert feeds["input_ids"].tolist() == [[9, 0, 0], [9, 9, 9]]
    assert feeds["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1]] and feeds["attention_mask"].dtype == np.int64
    assert feeds["features"][0].tolist() == [[1] * 3, [-1.5] * 3, [-1.5] * 3]
    assert feeds["features"].dtype == np.float32 and feeds["flag"].tolist() == [[1, 1], [3, 3]]
    assert set(layout.stack(rows, frozenset({"input_ids"}))) == {"input_ids"}


def test_taking_positions_leaves_inputs_without_a_length_alone():
    layout = RowLayout((TOKENS, FLAG), (STATES,))
    row = layout.take(layout.read({"input_ids": [4, 5, 6, 7], "flag": [1, 2]})[0][0], np.array([0, 2]))
    assert row.length == 2 and row.arrays["input_ids"].tolist() == [[4, 6]] and row.arrays["flag"].tolist() == [[1, 2]]


def test_outputs_of_rows_are_cropped_and_joined_with_zeros():
    rows = TEXT.unstack({"hidden": np.ones((2, 3, 4)), "pooled": np.ones((2, 4))}, [3, 2])
    assert rows[1]["hidden"].shape == (1, 2, 4) and rows[1]["pooled"].shape == (1, 4)
    joined = TEXT.join(rows)
    assert joined["hidden"].shape == (2, 3, 4) and not joined["hidden"][1, 2].any() and joined["pooled"].shape == (2, 4)


def test_outputs_of_another_shape_are_refused():
    outputs = {"hidden": np.ones((1, 3, 4)), "pooled": np.ones((1, 1, 4))}
    with pytest.raises(BackendError, match=r"'pooled' has shape \(1, 1, 4\), expected \(1, 4\)"):
        TEXT.unstack(outputs, [3])


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int32, np.int64, np.bool_])
def test_narrower_integers_are_widened(dtype):
    assert TEXT.read({"input_ids": np.ones(3, dtype)})[0][0].arrays["input_ids"].dtype == np.int64


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"ids": [1]}, "unknown input 'ids'"),
        ({"attention_mask": [1]}, "input 'input_ids' is missing"),
        ({"input_ids": [1.5]}, "is float64, which does not fit int64"),
        ({"input_ids": np.array([2**63], np.uint64)}, "is uint64, which does not fit int64"),
        ({"input_ids": ["a"]}, "does not fit int64"),
        ({"input_ids": [[[1]]]}, r"has shape \(1, 1, 1\)"),
        ({"input_ids": 5}, "has shape"),
        ({"input_ids": []}, "the input is empty"),
        ({"input_ids": [[1, 2], [3]]}, "is not an array"),
        ({"input_ids": [1, -1]}, "negative token id"),
        ({"input_ids": np.zeros((0, 3), int)}, "the input is empty"),
        ({"input_ids": [1, 2], "token_type_ids": [0]}, r"'token_type_ids' has shape \(1,\).*length = 2"),
        ({"input_ids": [1, 2], "token_type_ids": [[0, 0]]}, "'token_type_ids' has shape"),
        ({"input_ids": [1, 2], "attention_mask": [0, 1]}, "ones followed by zeros"),
        ({"input_ids": [1, 2, 3], "attention_mask": [1, 0, 1]}, "ones followed by zeros"),
        ({"input_ids": [1, 2], "attention_mask": [2, 1]}, "ones followed by zeros"),
        ({"input_ids": [1, 2], "attention_mask": [0, 0]}, "the row is empty"),
        ({"input_ids": [1, 2], "attention_mask": [1, -1]}, "ones followed by zeros"),
    ],
)
def test_what_the_bundle_does_not_take_is_one_clear_line(inputs, message):
    with pytest.raises(InputError, match=message) as caught:
        TEXT.read(inputs)
    assert "\n" not in str(caught.value)
