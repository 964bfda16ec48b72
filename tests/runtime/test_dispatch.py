import threading
import warnings

import numpy as np
import pytest

from ctx_runtime import dispatch as dispatch_module
from ctx_runtime.bundle import Bundle
from ctx_runtime.dispatch import Dispatcher
from ctx_runtime.errors import BackendError, CtxError, MemoryBudgetError
from ctx_runtime.manifest import Activation
from tests.fixtures.bundles import edit_manifest, write_tiny_bundle


class FakeSession:
    """Counts what is open; answers nothing."""

    opened = 0

    def __init__(self, resident_bytes=100):
        type(self).opened += 1
        self.backend, self.inputs, self.resident_bytes, self.closed = "onnxruntime-cpu", frozenset(), resident_bytes, 0

    def run(self, feeds, *, bucket):
        assert not self.closed
        return {}

    def close(self):
        self.closed += 1


@pytest.fixture
def fake_sessions(monkeypatch):
    FakeSession.opened = 0
    monkeypatch.setattr(dispatch_module, "open_session", lambda *_, **__: FakeSession())


def dispatcher(root, *, backends=None, share_weights="off", session_budget=None, **bundle):
    opened = Bundle.open(write_tiny_bundle(root / "b", **bundle))
    return Dispatcher(opened, backends=backends, share_weights=share_weights, session_budget=session_budget)


@pytest.mark.parametrize(
    ("length", "name"), [(1, "ctx-16"), (15, "ctx-16"), (16, "ctx-16"), (17, "ctx-48"), (47, "ctx-48"), (48, "ctx-48")]
)
def test_a_length_goes_to_the_smallest_bucket_that_holds_it(tmp_path, length, name):
    bucket, reason = dispatcher(tmp_path).choose(length)
    assert bucket.name == name and str(length) in reason


def test_a_length_beyond_every_bucket_has_none(tmp_path):
    with pytest.raises(ValueError, match="no bucket holds 49 tokens"):
        dispatcher(tmp_path).choose(49)


def test_too_little_memory_is_an_error_that_names_what_fits(tmp_path):
    fields = {"memory_budget": 1000, "activation": Activation(per_token=50)}
    small = dispatcher(tmp_path, bucket_fields=fields)
    assert small.choose(20)[0].name == "ctx-48"
    with pytest.raises(MemoryBudgetError) as caught:
        small.choose(21)
    assert caught.value.hint == "the longest input that fits is 20 tokens"
    with pytest.raises(MemoryBudgetError):
        small.choose(11, batch=2)


def test_buckets_of_one_network_share_a_session(tmp_path, fake_sessions):
    shared = dispatcher(tmp_path)
    first, second = shared.choose(3)[0], shared.choose(30)[0]
    with shared.session(first, "unmasked") as a, shared.session(second, "unmasked") as b:
        assert a is b
    with shared.session(first, "masked") as c:
        assert c is not a
    assert FakeSession.opened == 2


def test_the_session_used_longest_ago_goes_when_the_budget_is_full(tmp_path, fake_sessions):
    small = dispatcher(tmp_path, session_budget=150)
    bucket = small.choose(3)[0]
    with small.session(bucket, "unmasked") as first:
        pass
    with small.session(bucket, "masked"):
        assert first.closed == 1 and small.evictions == 1
    assert len(small.open_sessions()) == 1
    with small.session(bucket, "unmasked") as again:
        assert again is not first and again.closed == 0


def test_a_session_in_use_is_never_closed(tmp_path, fake_sessions):
    small = dispatcher(tmp_path, session_budget=150)
    bucket = small.choose(3)[0]
    with small.session(bucket, "unmasked") as first, small.session(bucket, "masked"):
        assert not first.closed
    assert small.evictions == 0


def test_what_is_open_beyond_the_budget_because_it_was_in_use_goes_when_it_is_idle(tmp_path, fake_sessions):
    small = dispatcher(tmp_path, session_budget=150)
    bucket = small.choose(3)[0]
    with small.session(bucket, "unmasked") as first, small.session(bucket, "masked"):
        pass
    with small.session(bucket, "masked") as second:
        assert first.closed == 1 and small.open_sessions() == [second]
    with small.session(bucket, "masked"):
        assert not second.closed and small.evictions == 1


@pytest.mark.parametrize(
    ("budget", "opened"), [(None, ["ctx-16", "ctx-32", "ctx-48"]), (250, ["ctx-16", "ctx-32"]), (50, [])]
)
def test_sessions_are_warmed_up_smallest_first_until_the_budget_is_full(tmp_path, fake_sessions, budget, opened):
    root = write_tiny_bundle(tmp_path / "b", buckets=(16, 32, 48))
    edit_manifest(
        root, lambda manifest: [bucket.update(threads=bucket["max_length"]) for bucket in manifest["buckets"]]
    )
    cold = Dispatcher(Bundle.open(root), backends=None, share_weights="off", session_budget=budget)
    assert cold.warm_up("unmasked") == cold.warm_up("unmasked") == opened
    assert len(cold.open_sessions()) == len(opened) and cold.evictions == 0


def test_a_session_larger_than_the_budget_is_refused(tmp_path, fake_sessions):
    small = dispatcher(tmp_path, session_budget=50)
    with pytest.raises(MemoryBudgetError, match="session budget is 50"), small.session(small.choose(3)[0], "masked"):
        pass
    assert small.open_sessions() == []


def test_threads_that_come_together_open_one_session(tmp_path, monkeypatch):
    gate, opened = threading.Event(), []

    def slow(*_, **__):
        gate.wait(5)
        opened.append(FakeSession())
        return opened[-1]

    monkeypatch.setattr(dispatch_module, "open_session", slow)
    shared = dispatcher(tmp_path)
    bucket = shared.choose(3)[0]

    def use():
        with shared.session(bucket, "unmasked"):
            pass

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    gate.set()
    for thread in threads:
        thread.join()
    assert len(opened) == 1


def test_a_backend_that_is_not_there_falls_back_once_with_the_reason_and_a_warning(tmp_path):
    real = dispatcher(tmp_path, backends=("tensorrt-rtx", "onnxruntime-cuda", "onnxruntime-cpu"))
    bucket = real.choose(3)[0]
    feeds = {"input_ids": np.array([[3, 4]])}
    with pytest.warns(RuntimeWarning) as told, real.session(bucket, "unmasked") as session:
        assert session.backend == "onnxruntime-cpu" and session.run(feeds, bucket="ctx-16")["pooled"].shape == (1, 4)
    assert len(told) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with real.session(bucket, "unmasked"):
            pass
    assert [(fallback.backend, fallback.bucket) for fallback in real.fallbacks] == [
        ("tensorrt-rtx", "ctx-16"),
        ("onnxruntime-cuda", "ctx-16"),
    ]
    assert "no tensorrt-rtx engine" in real.fallbacks[0].reason
    assert "CUDAExecutionProvider" in real.fallbacks[1].reason


@pytest.mark.filterwarnings("ignore:.*tensorrt")
def test_no_backend_at_all_is_an_error_with_every_reason(tmp_path):
    none = dispatcher(tmp_path, backends=("tensorrt", "tensorrt-rtx"))
    for _ in range(2):
        with (
            pytest.raises(BackendError, match=r"tensorrt: .*; tensorrt-rtx: "),
            none.session(none.choose(3)[0], "masked"),
        ):
            pass


@pytest.mark.filterwarnings("ignore:.*tensorrt")
def test_both_forms_of_a_graph_tell_of_an_absent_backend_once(tmp_path):
    real = dispatcher(tmp_path, backends=("tensorrt", "onnxruntime-cpu"))
    bucket = real.choose(3)[0]
    for form in ("masked", "unmasked"):
        with real.session(bucket, form):
            pass
    assert len(real.fallbacks) == 1


def test_a_closed_dispatcher_opens_nothing(tmp_path, fake_sessions):
    shared = dispatcher(tmp_path)
    shared.close()
    with pytest.raises(CtxError, match="closed"), shared.session(shared.choose(3)[0], "masked"):
        pass
    assert FakeSession.opened == 0
