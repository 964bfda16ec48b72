from hypothesis import given
from hypothesis import strategies as st

from ctx_runtime.batching import Job
from ctx_runtime.manifest import Activation, BucketRecord, Tolerance
from ctx_runtime.padding import Row
from ctx_runtime.resource_profile import BatchRange
from ctx_runtime.scheduling.queue import JobQueue
from ctx_runtime.scheduling.request import QueuedJob
from ctx_runtime.scheduling.settings import Limits


def bucket(low, high):
    return BucketRecord(
        min_length=low, max_length=high, opt_length=high, batch=BatchRange(max=4), precision="fp32", threads=0,
        memory_budget=500, backends=("onnxruntime-cpu",), subnetwork=None, graph="g", unmasked_graph="u",
        tolerance=Tolerance(max_abs=1, min_cosine=0), golden=None, activation=Activation(per_token=1),
        masked_activation=Activation(per_token=2),
    )  # fmt: skip


SHORT, LONG = bucket(1, 16), bucket(17, 100)


def queue_of(jobs):
    queue, added = JobQueue(), []
    for index, (length, alone) in enumerate(jobs):
        queued = QueuedJob(Job(Row({}, length), SHORT if length <= 16 else LONG, alone, ""), None, index)
        queue.add(queued)
        added.append(queued)
    return queue, added


def lengths(batch):
    return [queued.job.row.length for queued in batch]


JOBS = st.lists(st.tuples(st.integers(1, 100), st.booleans()), min_size=1, max_size=30)
LIMITS = st.builds(Limits, st.just(0.0), st.integers(1, 300), st.sampled_from([0.0, 0.05, 0.3]))


@given(JOBS, LIMITS, st.booleans())
def test_every_job_runs_once_the_oldest_next_and_every_beginning_of_a_batch_is_within_the_limits(jobs, limits, may_pad):
    queue, left = queue_of(jobs)
    while left:
        batch, _ = queue.batch(limits, may_pad=may_pad)
        assert batch[0] is left[0] is queue.oldest()
        for count in range(2, len(batch) + 1):
            rows = lengths(batch[:count])
            padded = max(rows) * count
            assert count <= 4 and padded <= limits.token_budget
            assert len({queued.job.bucket.max_length for queued in batch[:count]}) == 1
            assert not any(queued.job.alone for queued in batch)
            assert padded - sum(rows) <= limits.max_padding * padded and (may_pad or len(set(rows)) == 1)
            assert padded * (1 if len(set(rows)) == 1 else 2) <= 500
        for queued in batch:
            queue.remove(queued)
            left.remove(queued)
        assert len(queue) == len(left) and queue.tokens == sum(lengths(left))
    assert queue.oldest() is None


@given(JOBS, st.lists(st.integers(0, 29)))
def test_jobs_that_are_removed_leave_no_trace(jobs, removed):
    queue, added = queue_of(jobs)
    for index in removed:
        queue.remove(added[index % len(added)])
    kept = [queued for index, queued in enumerate(added) if index not in {other % len(added) for other in removed}]
    assert queue.tokens == sum(lengths(kept)) and queue.oldest() is (kept[0] if kept else None)


def test_of_one_length_the_oldest_come_first_then_the_nearest():
    queue, added = queue_of([(20, False), (24, False), (20, False), (21, False)])
    batch, full = queue.batch(Limits(0.0, 100, 0.3), may_pad=True)
    assert batch == [added[0], added[2], added[3], added[1]] and full


def test_a_batch_has_room_until_one_more_of_its_length_would_not_fit():
    for count, tokens, full in [(2, 60, False), (3, 60, True), (2, 59, True), (4, 1000, True)]:
        queue, _ = queue_of([(20, False)] * count)
        assert queue.batch(Limits(0.0, tokens, 0.0), may_pad=True)[1] == full


def test_a_job_that_runs_alone_waits_for_none():
    queue, added = queue_of([(16, True), (16, False)])
    assert queue.batch(Limits(0.0, 1000, 0.3), may_pad=True) == ([added[0]], True)
