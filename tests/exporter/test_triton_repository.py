import os
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from ctx_export import triton_repository
from ctx_export.triton_models import triton_models
from ctx_export.triton_repository import write_repository
from ctx_runtime.bundle import Bundle
from ctx_runtime.errors import BuildError
from ctx_runtime.manifest import EngineRecord
from tests.fixtures.bundles import edit_manifest, expected, rehash, write_tiny_bundle

CROSS = Path(__file__).parents[1] / "cross"
IDS = np.arange(1, 21)[None]


@pytest.fixture
def bundle(tmp_path):
    return Bundle.open(write_tiny_bundle(tmp_path / "tiny.bundle"))


def parsed(repository, model):
    """A configuration as Triton reads it: what its message does not know, or knows otherwise, is an error."""
    text_format = pytest.importorskip("google.protobuf.text_format", reason="needs tritonclient[grpc]")
    model_config = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="needs tritonclient[grpc]")
    text = (repository.root / model / "config.pbtxt").read_text()
    return text_format.Parse(text, model_config.ModelConfig())


def with_engines(bundle, *engines):
    """The bundle with engines that are made of nothing: no test here opens one."""
    for engine in engines:
        path = bundle.path(engine.file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(engine.file.encode())
    edit_manifest(bundle.root, lambda manifest: manifest.update(engines=[e.model_dump(mode="json") for e in engines]))
    rehash(bundle.root)
    return Bundle.open(bundle.root)


def engine(backend, *targets, **fields):
    fields = {"optimization_profiles": {"ctx-16": 0, "ctx-48": 1}, "library_version": "10.13"} | fields
    file = f"engines/{backend}/{'+'.join(targets)}/all.engine"
    return EngineRecord(backend=backend, targets=targets, file=file, network="fp32", **fields)


def test_it_holds_the_router_and_each_form_of_the_network(bundle, tmp_path):
    repository = write_repository(bundle, tmp_path / "models")
    files = sorted(path.relative_to(repository.root).as_posix() for path in repository.root.rglob("*.*"))
    assert [file for file in files if "/bundle/" not in file] == [
        "ctx-export.json",
        "tiny-fp32-unmasked/1/model.onnx",
        "tiny-fp32-unmasked/1/weights.bin",
        "tiny-fp32-unmasked/config.pbtxt",
        "tiny-fp32/1/model.onnx",
        "tiny-fp32/1/weights.bin",
        "tiny-fp32/config.pbtxt",
        "tiny/1/model.py",
        "tiny/config.pbtxt",
    ]
    assert Bundle.open(repository.root / "tiny/1/bundle").manifest == bundle.manifest


def test_the_router_takes_requests_of_different_lengths_together(bundle, tmp_path):
    config = parsed(write_repository(bundle, tmp_path / "models"), "tiny")
    assert (config.name, config.backend, config.HasField("dynamic_batching")) == ("tiny", "python", True)
    inputs = [(i.name, list(i.dims), i.optional, i.allow_ragged_batch) for i in config.input]
    assert inputs == [("input_ids", [-1], False, True), ("attention_mask", [-1], True, True)]
    outputs = [(o.name, list(o.dims), o.HasField("reshape")) for o in config.output]
    assert outputs == [("hidden", [-1, 4], False), ("pooled", [4], False), ("ctx_dispatch", [1], True)]


def test_a_graph_has_its_own_inputs_and_the_threads_of_its_bucket(bundle, tmp_path):
    repository = write_repository(bundle, tmp_path / "models")
    masked, alone = (parsed(repository, name) for name in ("tiny-fp32", "tiny-fp32-unmasked"))
    assert [i.name for i in masked.input] == ["input_ids", "attention_mask"]
    assert [i.name for i in alone.input] == ["input_ids"]
    assert masked.backend == "onnxruntime" and masked.parameters["intra_op_thread_count"].string_value == "1"
    assert masked.max_batch_size == 8 and not masked.input[0].allow_ragged_batch and not masked.input[1].optional
    assert masked.instance_group[0].kind == masked.instance_group[0].KIND_CPU


def test_onnx_runtime_opens_the_graphs_where_they_stand(bundle, tmp_path):
    repository = write_repository(bundle, tmp_path / "models")
    for model, feeds in (("tiny-fp32", {"attention_mask": np.ones_like(IDS)}), ("tiny-fp32-unmasked", {})):
        session = ort.InferenceSession(repository.root / model / "1/model.onnx", providers=["CPUExecutionProvider"])
        _, pooled = session.run(["hidden", "pooled"], {"input_ids": IDS} | feeds)
        np.testing.assert_allclose(pooled, expected(IDS)["pooled"], atol=1e-6)


def test_graphs_share_one_copy_of_the_weights(bundle, tmp_path):
    repository = write_repository(bundle, tmp_path / "models")
    names = [repository.root / model / "1/weights.bin" for model in ("tiny-fp32", "tiny-fp32-unmasked")]
    assert repository.linked and names[0].samefile(names[1])
    apart = {path.stat().st_ino: path.stat().st_size for path in repository.root.rglob("*.*")}
    assert repository.disk_bytes == sum(apart.values())


def test_without_hard_links_each_graph_has_its_own(bundle, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError

    monkeypatch.setattr(triton_repository.os, "link", refuse)
    repository = write_repository(bundle, tmp_path / "models")
    assert not repository.linked
    assert (repository.root / "tiny-fp32-unmasked/1/weights.bin").stat().st_nlink == 1


def test_an_engine_has_all_its_profiles_in_one_instance_group(bundle, tmp_path):
    repository = write_repository(with_engines(bundle, engine("tensorrt", "ampere-plus")), tmp_path / "models")
    config = parsed(repository, "tiny-tensorrt-ampere-plus-all")
    (group,) = config.instance_group
    assert config.backend == "tensorrt" and list(group.profile) == ["0", "1"] and group.kind == group.KIND_GPU
    assert [i.name for i in config.input] == ["input_ids", "attention_mask"]
    plan = repository.root / "tiny-tensorrt-ampere-plus-all/1/model.plan"
    assert plan.read_bytes() == b"engines/tensorrt/ampere-plus/all.engine"


def test_engines_that_triton_cannot_run_are_left_out_with_the_reason(bundle, tmp_path):
    engines = engine("tensorrt-rtx", "sm89"), engine("tensorrt", "sm86", stripped=True)
    repository = write_repository(with_engines(bundle, *engines), tmp_path / "models")
    assert repository.left_out == {
        "engines/tensorrt-rtx/sm89/all.engine": "it is for tensorrt-rtx, which Triton has no backend for",
        "engines/tensorrt/sm86/all.engine": "it was built without weights, which only ctx-runtime puts in",
    }
    assert [model.backend for model in repository.models] == ["python", "onnxruntime", "onnxruntime"]


def test_a_name_that_no_folder_can_have_is_changed(tmp_path):
    bundle = Bundle.open(write_tiny_bundle(tmp_path / "tiny.bundle", name="me/tiny:2"))
    assert [model.name for model in triton_models(bundle)] == ["me-tiny-2", "me-tiny-2-fp32", "me-tiny-2-fp32-unmasked"]


def test_an_earlier_repository_is_replaced_and_nothing_else(bundle, tmp_path):
    write_repository(bundle, tmp_path / "models")
    (tmp_path / "models/tiny/config.pbtxt").unlink()
    assert (write_repository(bundle, tmp_path / "models").root / "tiny/config.pbtxt").exists()
    (tmp_path / "models/ctx-export.json").unlink()
    with pytest.raises(BuildError, match="was not written by"):
        write_repository(bundle, tmp_path / "models")
    assert (tmp_path / "models/tiny/config.pbtxt").exists()


def test_a_disk_that_fails_leaves_the_earlier_repository(bundle, tmp_path, monkeypatch):
    before = write_repository(bundle, tmp_path / "models")

    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(triton_repository.shutil, "copyfile", full)
    with pytest.raises(BuildError, match="No space left on device"):
        write_repository(bundle, tmp_path / "models")
    assert (before.root / "tiny/config.pbtxt").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models", "tiny.bundle"]


def test_a_model_that_generates_text_is_refused(tmp_path):
    with pytest.raises(BuildError, match="generates text"):
        write_repository(Bundle.open(CROSS / "decoder"), tmp_path / "models")
