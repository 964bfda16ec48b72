import multiprocessing
import os
import warnings

import numpy as np
import pytest

from ctx_runtime import Bundle, Runtime
from ctx_runtime.backends import prepacked
from ctx_runtime.backends.onnxruntime import OrtSession
from ctx_runtime.backends.prepacked import prepacked_graph
from tests.fixtures.bundles import expected, write_tiny_bundle
from tests.fixtures.hash_records import record_at_once, spy_on_hashing

IDS = np.array([[3, 4, 5]])
GRAPH = "graphs/ctx-48.unmasked.onnx"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CTX_RUNTIME_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def bundle(tmp_path):
    return Bundle.open(write_tiny_bundle(tmp_path / "b", buckets=(16, 512)))


def run(path):
    return OrtSession(path, prepacked=True).run({"input_ids": IDS}, bucket="b")


def graph(bundle, form=".unmasked"):
    return f"graphs/ctx-512{form}.onnx"


def test_the_repacked_graph_answers_the_same(bundle, cache):
    answers = run(prepacked_graph(bundle, graph(bundle)))
    for name, value in expected(IDS).items():
        np.testing.assert_allclose(answers[name], value, atol=1e-6)


def test_it_is_made_once(bundle, cache, monkeypatch):
    path = prepacked_graph(bundle, graph(bundle))
    monkeypatch.setattr(prepacked, "_repack", lambda *_: pytest.fail("made again"))
    assert prepacked_graph(bundle, graph(bundle)) == path


def test_its_weights_are_hashed_once_unless_everything_is(bundle, cache, monkeypatch):
    record_at_once(monkeypatch, cache)
    for _ in range(2):
        prepacked_graph(bundle, graph(bundle))
    hashed = spy_on_hashing(monkeypatch)
    prepacked_graph(bundle, graph(bundle))
    assert hashed == ["graph.onnx"]
    prepacked_graph(Bundle.open(bundle.root, check="full"), graph(bundle))
    assert hashed.count("weights.bin") == 2  # the bundle's and the cached one


def test_graphs_of_one_network_share_one_file_of_weights(bundle, cache):
    paths = [prepacked_graph(bundle, graph(bundle, form)) for form in ("", ".unmasked")]
    first, second = (path.with_name("weights.bin").stat() for path in paths)
    assert first.st_ino == second.st_ino


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x40
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [lambda path: os.truncate(path, 10), flip, os.remove])
@pytest.mark.parametrize("name", ["weights.bin", "graph.onnx", "sha256.json"])
def test_a_damaged_entry_is_made_again(bundle, cache, name, damage):
    path = prepacked_graph(bundle, graph(bundle))
    damage(path.with_name(name))
    answers = run(prepacked_graph(bundle, graph(bundle)))
    np.testing.assert_allclose(answers["hidden"], expected(IDS)["hidden"], atol=1e-6)


def test_a_disk_that_is_full_falls_back(bundle, cache, monkeypatch):
    def fail(*_):
        raise RuntimeError("No space left on device")

    monkeypatch.setattr(prepacked, "_repack", fail)
    with Runtime.open(bundle) as runtime, pytest.warns(RuntimeWarning, match="No space left"):
        runtime.run({"input_ids": IDS})


def test_an_entry_belongs_to_one_bundle_one_version_and_one_processor(bundle, cache, tmp_path, monkeypatch):
    paths = {prepacked_graph(bundle, graph(bundle))}
    monkeypatch.setattr(prepacked.ort, "__version__", "0.0.1")
    paths.add(prepacked_graph(bundle, graph(bundle)))
    monkeypatch.setattr(prepacked, "_processor", lambda: "another")
    paths.add(prepacked_graph(bundle, graph(bundle)))
    other = Bundle.open(write_tiny_bundle(tmp_path / "c", buckets=(512,)))
    paths.add(prepacked_graph(other, graph(other)))
    assert len(paths) == 4


def test_a_cache_that_cannot_be_written_falls_back_with_the_reason(bundle, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CTX_RUNTIME_CACHE", str(tmp_path / "file"))
    with Runtime.open(bundle) as runtime, pytest.warns(RuntimeWarning, match="weights are not shared"):
        outputs = runtime.run({"input_ids": IDS}).outputs
        np.testing.assert_allclose(outputs["hidden"], expected(IDS)["hidden"], atol=1e-6)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            runtime.run({"input_ids": IDS})
        assert "weights are not shared" in runtime.stats().fallbacks[0].reason


def _make(root):
    return str(prepacked_graph(Bundle.open(root), "graphs/ctx-512.onnx"))


def test_processes_that_make_it_together_agree(bundle, cache):
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        paths = set(pool.map(_make, [bundle.root] * 6))
    assert len(paths) == 1 and not list(cache.rglob(".partial-*"))
