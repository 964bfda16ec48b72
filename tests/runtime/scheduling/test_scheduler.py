import concurrent.futures
import threading
import time

import numpy as np
import pytest

from ctx_runtime.errors import BackendError, CtxError, DeadlineError, InputError, MemoryBudgetError, OverloadError
from ctx_runtime.manifest import Activation
from tests.fixtures.batches import Batches, assert_same, ids, scheduled, workers
from tests.fixtures.bundles import write_tiny_bundle

LENGTHS = [3, 20, 3, 130, 48, 16, 17, 20, 1, 300]
MANY = {"input_ids": np.stack([ids(9, seed)["input_ids"] for seed in range(20)])}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture
def held(bundle):
    """A runtime with one worker, which is busy with a batch of 5 tokens until `go` is set."""
    with scheduled(bundle, workers=1, max_queue=4) as runtime:
        batches = Batches(runtime, held=True)
        first = runtime.submit(ids(5))
        assert batches.begun.wait(60)
        yield runtime, batches, first
        batches.go.set()


@pytest.mark.parametrize("settings", [{"workers": 2}, {"max_padding": 0.3, "max_wait_ms": 20, "token_budget": 200}])
def test_answers_equal_run(bundle, settings):
    with scheduled(bundle, **settings) as runtime:
        inputs = [*map(ids, LENGTHS), MANY]
        for given, future in zip(inputs, [runtime.submit(given) for given in inputs], strict=True):
            assert_same(future.result(60), runtime.run(given))
        assert runtime.stats().requests.finished == len(inputs)
    assert workers() == []


def test_the_same_batch_gives_the_same_bits(bundle):
    with scheduled(bundle) as runtime:
        result, expected = runtime.submit(ids(33)).result(60), runtime.run(ids(33))
    assert all(np.array_equal(result.outputs[name], array) for name, array in expected.outputs.items())


def test_an_input_is_checked_in_the_caller_and_copied(held):
    runtime, batches, _ = held
    with pytest.raises(InputError, match="unknown input"):
        runtime.submit({"tokens": [1, 2]})
    with pytest.raises(InputError, match="not an array"):
        runtime.submit({"input_ids": [[1, 2], [3]]})
    with pytest.raises(InputError, match="timeout_s"):
        runtime.submit(ids(3), timeout_s=-1)
    tokens = ids(7)["input_ids"]
    future = runtime.submit({"input_ids": tokens})
    tokens[:] = 9
    batches.go.set()
    assert_same(future.result(60), runtime.run(ids(7)))


def test_the_oldest_goes_first_and_only_those_of_its_length_overtake(held):
    runtime, batches, _ = held
    futures = [runtime.submit(ids(length)) for length in (40, 6, 40, 20)]
    batches.go.set()
    concurrent.futures.wait(futures, 60)
    assert batches.lengths == [[5], [40, 40], [6], [20]]


def test_rows_near_in_length_share_a_batch_where_padding_is_allowed(bundle):
    with scheduled(bundle, workers=1, max_padding=0.1, max_wait_ms=60_000) as runtime:
        batches = Batches(runtime)
        futures = [runtime.submit(ids(length)) for length in (40, 17, 38, 41)]
        assert runtime.drain(60)
        assert batches.lengths == [[40, 41, 38], [17]]
        assert 0 < runtime.stats().padding_share < 0.1
        for length, future in zip((40, 17, 38, 41), futures, strict=True):
            assert_same(future.result(), runtime.run(ids(length)))


def test_a_batch_waits_for_others_until_it_is_full(bundle):
    with scheduled(bundle, workers=1, max_wait_ms=60_000, token_budget=40) as runtime:
        batches = Batches(runtime)
        futures = [runtime.submit(ids(10, seed)) for seed in range(8)]
        concurrent.futures.wait(futures, 60)
        assert [len(batch) for batch in batches.lengths] == [4, 4]


def test_a_batch_waits_no_longer_than_it_may(bundle):
    with scheduled(bundle, workers=1, max_wait_ms=30) as runtime:
        started = time.monotonic()
        runtime.submit(ids(10)).result(60)
        assert time.monotonic() - started >= 0.03


def test_a_request_that_has_not_begun_at_its_deadline_ends_though_the_worker_is_busy(held):
    runtime, batches, first = held
    late, early = runtime.submit(ids(6), timeout_s=60), runtime.submit(ids(6), timeout_s=0.01)
    assert isinstance(early.exception(60), DeadlineError)
    assert "not begun within 0.01 s" in str(early.exception())
    assert not batches.go.is_set() and not late.done()
    batches.go.set()
    assert_same(late.result(60), runtime.run(ids(6)))
    stats = runtime.stats().requests
    assert (stats.submitted, stats.expired) == (3, 1) and first.result(60)


def test_one_request_too_many_is_refused_and_told_when_to_come_again(held):
    runtime, batches, first = held
    waiting = [runtime.submit(ids(6)) for _ in range(4)]
    with pytest.raises(OverloadError, match="4 requests wait") as caught:
        runtime.submit(ids(6))
    assert 0 < caught.value.retry_after_s < 60 and "try again in" in caught.value.hint
    assert runtime.stats().queue == 4
    batches.go.set()
    concurrent.futures.wait([first, *waiting], 60)
    assert_same(runtime.submit(ids(6)).result(60), waiting[0].result())
    assert runtime.stats().requests.refused == 1


def test_a_request_can_be_cancelled_until_it_begins(held):
    runtime, batches, first = held
    future = runtime.submit(MANY)
    assert runtime.stats().queue == 1 and future.cancel() and future.cancel()
    assert concurrent.futures.wait([future], 1).done == {future}
    assert runtime.stats().queue == 0 and not first.cancel()
    batches.go.set()
    assert runtime.drain(60) and batches.lengths == [[5]]
    stats = runtime.stats().requests
    assert (stats.finished, stats.cancelled, stats.running) == (1, 1, 0)


def test_drain_takes_nothing_more_and_finishes_all(held):
    runtime, batches, first = held
    waiting = [runtime.submit(ids(length)) for length in (6, 130)]
    assert not runtime.drain(0.01)
    with pytest.raises(CtxError, match="drains"):
        runtime.submit(ids(6))
    batches.go.set()
    assert runtime.drain(60) and all(future.done() for future in (first, *waiting))


def test_close_ends_what_waits_and_finishes_what_runs(held):
    runtime, batches, first = held
    waiting = [runtime.submit(ids(length)) for length in (6, 130)]
    closing = threading.Thread(target=runtime.close)
    closing.start()
    for future in waiting:
        with pytest.raises(CtxError, match="the runtime is closed"):
            future.result(60)
    batches.go.set()
    closing.join(60)
    assert first.result(60) and workers() == []
    with pytest.raises(CtxError, match="the runtime is closed"):
        runtime.submit(ids(6))


def test_a_callback_may_close_the_runtime(bundle):
    runtime = scheduled(bundle, workers=2)
    closed = threading.Event()
    batches = Batches(runtime, held=True)
    future = runtime.submit(ids(5))
    future.add_done_callback(lambda _: (runtime.close(), closed.set()))
    batches.go.set()
    assert closed.wait(60)
    runtime.close()
    assert workers() == []


@pytest.mark.parametrize("error", [BackendError("broken"), KeyboardInterrupt(), MemoryError()])
def test_what_a_batch_raises_ends_its_own_requests_and_no_worker(held, error):
    runtime, batches, _ = held
    batches.fails, batches.error = 7, error
    failing = [runtime.submit(ids(7)), runtime.submit(ids(7, 1))]
    sound = runtime.submit(ids(8))
    batches.go.set()
    assert [future.exception(60) for future in failing] == [error, error]
    assert_same(sound.result(60), runtime.run(ids(8)))
    assert runtime.stats().requests.failed == 2


def test_a_segment_that_fails_ends_its_request_and_those_left_are_not_run(held):
    runtime, batches, _ = held
    batches.fails, batches.error = 48, BackendError("broken")
    future = runtime.submit(ids(300))
    batches.go.set()
    with pytest.raises(BackendError, match="broken"):
        future.result(60)
    assert runtime.drain(60) and batches.lengths == [[5], [48]]


def test_a_callback_that_raises_ends_no_worker(bundle):
    def leave(_):
        raise SystemExit

    with scheduled(bundle, workers=1) as runtime:
        batches = Batches(runtime, held=True)
        futures = [runtime.submit(ids(5, seed)) for seed in range(3)]
        futures[0].add_done_callback(leave)
        batches.go.set()
        concurrent.futures.wait(futures, 60)
        assert runtime.submit(ids(6)).result(60)


def test_an_interrupted_submit_leaves_nothing_that_blocks_others(held, monkeypatch):
    runtime, batches, _ = held
    queue = runtime._scheduler._backlog.queue
    added, add = iter([None, None, KeyboardInterrupt()]), queue.add

    def interrupted(queued):
        if (error := next(added, None)) is not None:
            raise error
        add(queued)

    monkeypatch.setattr(queue, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        runtime.submit(MANY)
    later = runtime.submit(ids(9))
    batches.go.set()
    assert_same(later.result(60), runtime.run(ids(9)))
    assert runtime.drain(60) and len(queue) == 0 and runtime.stats().requests.submitted == 2


def test_batches_that_run_at_once_stay_within_the_memory_limit(tmp_path):
    fields = {"activation": Activation(per_token=10), "masked_activation": Activation(per_token=10)}
    root = write_tiny_bundle(tmp_path / "b", bucket_fields=fields)
    with scheduled(root, workers=4, memory_limit=300) as runtime:
        batches = Batches(runtime)
        futures = [runtime.submit(ids(15, seed)) for seed in range(30)] + [runtime.submit(MANY)]
        with pytest.raises(MemoryBudgetError, match="needs about 400 bytes"):
            runtime.submit(ids(40))
        concurrent.futures.wait(futures, 60)
        assert all(future.exception() is None for future in futures)
    assert 15 <= batches.most <= 30


def test_an_ended_request_holds_its_outcome_alone(held):
    runtime, batches, first = held
    future = runtime.submit(MANY)
    batches.go.set()
    assert future.result(60) and future.jobs == [] == first.jobs
