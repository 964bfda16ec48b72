"""Many requests from many threads, cancelled and late at random, while sessions are closed and opened again."""

import functools
import gc
import random
from concurrent.futures import CancelledError, ThreadPoolExecutor

import numpy as np
import pytest

from ctx_runtime import Runtime
from ctx_runtime.errors import DeadlineError
from ctx_runtime.scheduling.request import QueuedJob, Request
from ctx_runtime.scheduling.settings import Scheduling
from tests.fixtures.batches import ids, workers
from tests.fixtures.bundles import edit_manifest, write_tiny_bundle

THREADS = 16
LENGTHS = [*range(1, 33)] * 16 + [40, 48, 60, 200]
"""The last two buckets, each with a session of its own, are asked seldom: one has to go when the other comes."""


@pytest.fixture
def runtime(tmp_path):
    root = write_tiny_bundle(tmp_path / "b", buckets=(16, 32, 48, 64), session_budget=20 << 20)
    edit_manifest(root, give_last_buckets_sessions_of_their_own)
    with Runtime.open(root, share_weights="off", scheduling=Scheduling(workers=4, max_queue=10**6)) as opened:
        yield opened


def give_last_buckets_sessions_of_their_own(manifest):
    for bucket, precision in zip(manifest["buckets"][2:], ("fp16", "bf16"), strict=True):
        bucket["precision"] = precision


def storm(runtime, requests, seed):
    """Futures of random inputs by length and seed; some have a deadline, some are cancelled while others are made."""
    chance, submitted = random.Random(seed), []  # noqa: S311
    for index in range(requests):
        given = chance.choice(LENGTHS), chance.randrange(4)
        timeout_s = chance.choice([None, None, None, 0.0005, 0.2])
        submitted.append((given, runtime.submit(prepared(*given), timeout_s=timeout_s)))
        if chance.random() < 0.2:
            chance.choice(submitted[-20:])[1].cancel()
        if index % 50 == 49:
            wait_for(submitted[-1][1])
    return submitted


prepared = functools.cache(ids)


def wait_for(future):
    """The result of a future; None where it was cancelled or too late."""
    try:
        return future.result(120)
    except (CancelledError, DeadlineError):
        return None


def check(runtime, submitted):
    """Whether each answer is that of `run`; how many there are."""
    run = functools.cache(lambda given: runtime.run(prepared(*given)).outputs)
    answers = [(run(given), result.outputs) for given, future in submitted if (result := wait_for(future)) is not None]
    for expected, outputs in answers:
        assert all(np.abs(outputs[name] - array).max() <= 1e-6 for name, array in expected.items())
    return len(answers)


def alive():
    """How many requests and jobs are in memory."""
    gc.collect()
    return sum(isinstance(thing, (Request, QueuedJob)) for thing in gc.get_objects())


@pytest.mark.parametrize("requests", [3_200, pytest.param(50_000, marks=pytest.mark.slow)])
def test_every_request_of_a_storm_ends_with_the_answer_of_run_or_as_it_was_told(runtime, requests):
    before = alive()
    with ThreadPoolExecutor(THREADS) as pool:
        parts = list(pool.map(lambda seed: storm(runtime, requests // THREADS, seed), range(THREADS)))
    submitted = [pair for part in parts for pair in part]
    answered = check(runtime, submitted)
    assert runtime.drain(120)
    stats = runtime.stats()
    told = stats.requests
    assert (told.submitted, told.finished, told.failed) == (requests, answered, 0)
    assert told.cancelled + told.expired == requests - answered
    assert min(told.cancelled, told.expired, stats.evictions) > 0 and told.queued == told.running == 0
    runtime.close()
    del parts, submitted
    assert workers() == [] and alive() == before
    former = runtime._scheduler._former
    assert former._memory.taken == former._queue.tokens == len(former._queue) == 0
