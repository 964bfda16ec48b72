"""A Ray Serve application over a real local Ray: groups of buckets, refusals, overload and a killed replica."""

import json
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ctx_runtime import Runtime
from ctx_runtime.errors import CtxError, InputError, OverloadError
from tests.fixtures.bundles import VOCABULARY, write_tiny_bundle
from tests.fixtures.ray import NEEDS_RAY, start_ray

pytestmark = [pytest.mark.slow, NEEDS_RAY]
ADDRESS = "http://127.0.0.1:8000/"


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    with Runtime.open(write_tiny_bundle(tmp_path_factory.mktemp("ray") / "tiny.bundle")) as opened:
        yield opened


@pytest.fixture(scope="module")
def serve():
    ray = start_ray(cpus=4)
    from ray import serve

    yield serve
    serve.shutdown()
    ray.shutdown()


@pytest.fixture(scope="module")
def handle(serve, runtime):
    from ctx_runtime.ray.serving import Group, application

    groups = [Group(16, min_replicas=2, max_replicas=2), Group()]
    return serve.run(application(runtime.bundle.root, groups, health_check_period_s=1))


def tokens(length):
    return np.random.default_rng(length).integers(1, VOCABULARY, (1, length))


def assert_same(result, expected):
    for name, array in expected.outputs.items():
        np.testing.assert_allclose(result.outputs[name], array, atol=1e-6)


def post(body):
    request = urllib.request.Request(ADDRESS, data=body, headers={"Content-Type": "application/json"})
    return urllib.request.urlopen(request, timeout=60)  # noqa: S310 (our own server)


@pytest.mark.parametrize("length", [1, 16, 17, 48, 49, 200])
def test_every_length_answers_as_run_does(handle, runtime, length):
    inputs = {"input_ids": tokens(length)}
    result, expected = handle.run.remote(inputs).result(timeout_s=60), runtime.run(inputs)
    assert_same(result, expected)
    assert result.dispatch[0]._replace(ms=0) == expected.dispatch[0]._replace(ms=0)


def test_http_answers_the_same(handle, runtime):
    ids = tokens(20)
    answer = json.load(post(json.dumps({"input_ids": ids.tolist()}).encode()))
    np.testing.assert_allclose(
        answer["outputs"]["pooled"], runtime.run({"input_ids": ids}).outputs["pooled"], atol=1e-6
    )
    assert answer["dispatch"][0]["bucket"] == "ctx-48"


@pytest.mark.parametrize("body", [b"{", b"[1]", b'{"words": [1]}', b'{"input_ids": [-1]}'])
def test_http_says_what_is_wrong_with_a_request(handle, body):
    with pytest.raises(urllib.error.HTTPError) as refused:
        post(body)
    assert refused.value.code == 400 and json.load(refused.value)["error"]


def test_a_refusal_is_the_runtimes_own_error(handle):
    with pytest.raises(InputError) as refused:
        handle.run.remote({"input_ids": -tokens(5)}).result(timeout_s=60)
    assert str(refused.value.cause) == "input 'input_ids' has a negative token id"


def test_a_replica_that_is_killed_under_load_fails_no_request(handle, runtime):
    import ray

    stop, answered, failed = threading.Event(), [], []  # `append` is atomic

    def ask(seed):
        lengths = np.random.default_rng(seed)
        while not stop.is_set():
            inputs = {"input_ids": tokens(int(lengths.integers(1, 17)))}
            try:
                assert_same(handle.run.remote(inputs).result(timeout_s=60), runtime.run(inputs))
                answered.append(time.monotonic())
            except Exception as error:
                failed.append(error)

    with ThreadPoolExecutor(8) as clients:
        asking = [clients.submit(ask, seed) for seed in range(8)]
        time.sleep(3)
        victim = next(a for a in ray.util.list_named_actors(all_namespaces=True) if "#ctx-16#" in a["name"])
        killed = time.monotonic()
        ray.kill(ray.get_actor(victim["name"], namespace=victim["namespace"]))
        time.sleep(6)
        stop.set()
    for client in asking:
        client.result()
    assert not failed, failed[0]
    after = sum(moment > killed for moment in answered)
    print(f"{len(answered)} requests, {after} of them after the kill, none failed")
    assert after > 50 and len(answered) - after > 50


def test_a_full_queue_is_refused_and_what_was_accepted_is_answered(serve, runtime):
    from ctx_runtime.ray.serving import Group, application

    group = Group(max_ongoing_requests=1, max_queued_requests=2)
    handle = serve.run(application(runtime.bundle.root, [group]), name="small", route_prefix="/small")
    waiting = [handle.run.remote({"input_ids": tokens(400)}) for _ in range(40)]
    outcomes = []
    for response in waiting:
        try:
            outcomes.append(response.result(timeout_s=60))
        except OverloadError as error:
            assert error.cause.retry_after_s > 0
            outcomes.append(None)
    expected = runtime.run({"input_ids": tokens(400)})
    for result in filter(None, outcomes):
        assert_same(result, expected)
    assert 0 < outcomes.count(None) < len(outcomes)
    serve.delete("small")


def test_a_replica_is_healthy_as_long_as_it_can_run(runtime):
    from ctx_runtime.ray.serving import Replica

    replica = Replica(str(runtime.bundle.root), None)
    replica.check_health()
    replica._runtime.close()
    with pytest.raises(CtxError, match="closed"):
        replica.check_health()


def test_groups_must_ascend_and_end_open(runtime):
    from ctx_runtime.ray.serving import Group, application

    for groups in ([], [Group(16)], [Group(48), Group(16), Group()], [Group(), Group()]):
        with pytest.raises(InputError, match="ascend"):
            application(runtime.bundle.root, groups)
