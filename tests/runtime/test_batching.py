import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ctx_runtime.batching import Job, form_batches
from ctx_runtime.manifest import Activation, BucketRecord, Tolerance
from ctx_runtime.padding import Row
from ctx_runtime.resource_profile import BatchRange


def bucket(low, high, *, batch=4, budget=None):
    return BucketRecord(
        min_length=low, max_length=high, opt_length=high, batch=BatchRange(max=batch), precision="fp32", threads=0,
        memory_budget=budget, backends=("onnxruntime-cpu",), subnetwork=None, graph="g", unmasked_graph="u",
        tolerance=Tolerance(max_abs=1, min_cosine=0), golden=None, activation=Activation(per_token=1),
        masked_activation=Activation(per_token=1, per_token_pair=1),
    )  # fmt: skip


SHORT, LONG = bucket(1, 16), bucket(17, 100)


def jobs(*lengths, alone=False, short=SHORT):
    return [Job(Row({}, n), short if n <= 16 else LONG, alone, "") for n in lengths]


def lengths_of(batches, given_jobs):
    return [[given_jobs[index].row.length for index in batch] for batch in batches]


@given(st.lists(st.integers(1, 100), max_size=40), st.booleans())
def test_every_job_runs_once_in_a_batch_within_the_limits(lengths, may_pad):
    given_jobs = jobs(*lengths)
    batches = form_batches(given_jobs, may_pad=may_pad)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for rows in lengths_of(batches, given_jobs):
        assert len(rows) <= 4 and len({n <= 16 for n in rows}) == 1
        padding = sum(max(rows) - n for n in rows)
        assert padding <= 0.25 * max(rows) * len(rows) if may_pad else padding == 0


def test_a_batch_holds_no_more_rows_than_its_bucket_takes():
    given_jobs = jobs(*[5] * 9)
    assert sorted(map(len, form_batches(given_jobs, may_pad=True))) == [1, 4, 4]


def test_rows_of_different_length_share_a_batch_only_where_padding_is_harmless():
    given_jobs = jobs(9, 10, 10)
    assert lengths_of(form_batches(given_jobs, may_pad=True), given_jobs) == [[9, 10, 10]]
    assert lengths_of(form_batches(given_jobs, may_pad=False), given_jobs) == [[9], [10, 10]]


def test_windows_of_a_long_input_run_one_by_one():
    assert form_batches(jobs(16, 16, alone=True), may_pad=True) == [[0], [1]]
    mixed = [*jobs(16, alone=True), *jobs(16, 16)]
    assert sorted(map(len, form_batches(mixed, may_pad=True))) == [1, 2]


def test_a_memory_budget_bounds_the_batch():
    tight = bucket(1, 16, budget=20)
    assert list(map(len, form_batches(jobs(10, 10, 10, short=tight), may_pad=True))) == [2, 1]
    assert list(map(len, form_batches(jobs(9, 10, short=tight), may_pad=True))) == [1, 1]
    assert np.isclose(tight.masked_activation.bytes_for(2, 10), 220)
