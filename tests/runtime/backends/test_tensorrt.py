"""The session's logic against a stand-in of the library; the stand-in against the real module; and a real GPU's run."""

import hashlib
import inspect
import json
import re
import threading
import warnings

import numpy as np
import pytest

from ctx_runtime import Bundle, Runtime, cli
from ctx_runtime.backends import cuda, tensorrt
from ctx_runtime.backends.tensorrt import misfit, open_engine
from ctx_runtime.errors import BackendError, MemoryBudgetError, MissingExtraError
from ctx_runtime.manifest import Activation, EngineRecord
from tests.fixtures import fake_tensorrt as fake
from tests.fixtures.bundles import edit_manifest, expected, rehash, write_tiny_bundle
from tests.fixtures.decoder_bundles import wrap_decoder

ENGINE = b"an engine"
PROFILES = [((1, 1), (1, 16), (4, 16)), ((1, 17), (1, 48), (4, 48))]
RECORD = {
    "backend": "tensorrt-rtx",
    "targets": ["sm86", "sm89"],
    "file": "engines/tensorrt-rtx/sm86+sm89/all.engine",
    "library_version": "1.7.1.116",
    "network": "fp32",
    "optimization_profiles": {"ctx-16": 0, "ctx-48": 1},
}


@pytest.fixture
def library(monkeypatch, tmp_path):
    """The stand-in library in the place of the real one; `library.cuda` is its device."""
    library = fake.FakeTensorRT(ENGINE, PROFILES)
    monkeypatch.setattr(tensorrt, "load_library", lambda backend: library)
    monkeypatch.setattr(cuda, "cuda_runtime", lambda: library.cuda)
    monkeypatch.setenv("CTX_RUNTIME_CACHE", str(tmp_path / "cache"))
    return library


@pytest.fixture
def make_bundle(tmp_path):
    def make(**fields):
        root = write_tiny_bundle(tmp_path / "bundle", bucket_fields={"backends": ("tensorrt-rtx", "onnxruntime-cpu")})
        path = root / RECORD["file"]
        path.parent.mkdir(parents=True)
        path.write_bytes(ENGINE)
        edit_manifest(root, lambda manifest: manifest.update(engines=[{**RECORD, **fields}]))
        rehash(root)
        return Bundle.open(root)

    return make


@pytest.fixture
def session(library, make_bundle):
    bundle = make_bundle()
    session = open_engine(bundle, bundle.manifest.buckets[0], "tensorrt-rtx")
    yield session
    session.close()


def feeds(batch, length, seed=0):
    ids = np.random.default_rng(seed).integers(3, 60, (batch, length))
    return {"input_ids": ids, "attention_mask": np.ones((batch, length), np.int64)}


def check(session, arrays, bucket):
    answer, right = session.run(arrays, bucket=bucket), expected(**{"input_ids": arrays["input_ids"]})
    assert set(answer) == set(right)
    for name, array in right.items():
        np.testing.assert_allclose(answer[name], array, rtol=1e-6)


def test_each_bucket_runs_in_its_own_context_and_profile(session, library):
    assert session.backend == "tensorrt-rtx" and session.inputs == {"input_ids", "attention_mask"}
    assert library.contexts == []
    check(session, feeds(2, 5), "ctx-16")
    check(session, feeds(1, 17), "ctx-48")
    check(session, feeds(3, 16), "ctx-16")
    assert [context.profile for context in library.contexts] == [0, 1]
    assert library.opened == 1 and library.runs == 3


def test_buffers_are_kept_grow_and_are_given_back(session, library):
    check(session, feeds(4, 16), "ctx-16")
    before = library.cuda.mallocs
    assert before == 5, "two inputs, two outputs and scratch memory"
    for length in (1, 9, 16):
        check(session, feeds(2, length, seed=length), "ctx-16")
    assert library.cuda.mallocs == before
    check(session, feeds(4, 48), "ctx-48")
    assert library.cuda.mallocs > before and len(library.cuda.allocations) == 5
    assert session.resident_bytes == len(ENGINE) + sum(map(len, library.cuda.allocations.values()))
    session.close()
    session.close()
    assert library.cuda.allocations == {} and library.cuda.stream == 0
    with pytest.raises(BackendError, match="closed"):
        session.run(feeds(1, 4), bucket="ctx-16")


def test_contexts_share_one_block_of_scratch_memory(session, library):
    check(session, feeds(4, 48), "ctx-48")
    check(session, feeds(1, 3), "ctx-16")
    long, short = library.contexts
    assert long.scratch[0] == short.scratch[0] and long.scratch[1] > short.scratch[1]


@pytest.mark.parametrize(("batch", "length", "bucket"), [(1, 49, "ctx-48"), (5, 4, "ctx-16"), (5, 17, "ctx-48")])
def test_a_shape_outside_every_profile_is_refused(session, batch, length, bucket):
    with pytest.raises(BackendError, match=rf"{bucket}: the engine takes .* from .* got \[{batch}, {length}\]"):
        session.run(feeds(batch, length), bucket=bucket)


def test_a_shape_outside_the_buckets_own_profile_runs_in_another(session, library):
    check(session, feeds(1, 16), "ctx-48")
    assert [context.profile for context in library.contexts] == [0]
    check(session, feeds(1, 5), "ctx-16")
    assert len(library.contexts) == 1, "the context of a profile serves every bucket"


def test_a_row_that_a_memory_budget_moves_to_a_longer_bucket_runs(library, make_bundle):
    bundle = make_bundle()
    short, long = bundle.manifest.buckets
    short = short.model_copy(update={"memory_budget": 1, "activation": Activation(per_token=1)})
    manifest = bundle.manifest.model_copy(update={"buckets": (short, long)})
    with Runtime.open(Bundle(bundle.root, manifest, "0")) as runtime:
        row = np.arange(3, 9)
        result = runtime.run({"input_ids": row})
        np.testing.assert_allclose(result.outputs["hidden"], expected(row[None])["hidden"][0], rtol=1e-6)
    assert (result.dispatch[0].bucket, result.dispatch[0].backend) == ("ctx-48", "tensorrt-rtx")


def test_arrays_that_are_not_contiguous_run_too(session):
    check(session, {name: array.T.copy().T for name, array in feeds(3, 5).items()}, "ctx-16")


def test_another_dtype_is_refused(session):
    arrays = {name: array.astype(np.int32) for name, array in feeds(1, 4).items()}
    with pytest.raises(BackendError, match="as int64, got int32"):
        session.run(arrays, bucket="ctx-16")


def test_a_bucket_without_a_profile_is_refused(session):
    with pytest.raises(BackendError, match="no optimization profile for ctx-99"):
        session.run(feeds(1, 4), bucket="ctx-99")


def test_an_output_whose_shape_depends_on_data_is_refused(session, library):
    library.output_shapes["hidden"] = (1, -1)
    with pytest.raises(BackendError, match="'hidden' depends on data"):
        session.run(feeds(1, 4), bucket="ctx-16")


def test_the_librarys_own_words_are_in_the_error(session, library):
    library.fails = True
    with pytest.raises(BackendError, match=r"ctx-16 failed: .*misaligned address"):
        session.run(feeds(1, 4), bucket="ctx-16")


def test_no_device_memory_is_a_memory_error(session, library):
    library.cuda.free_bytes = 10
    with pytest.raises(MemoryBudgetError, match="no device memory left"):
        session.run(feeds(1, 4), bucket="ctx-16")


def test_threads_take_turns(session, library):
    threads = [
        threading.Thread(target=check, args=(session, feeds(1, length, seed=length), "ctx-16"))
        for length in range(1, 17)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert library.runs == 16


def test_only_a_fixed_shape_is_captured_as_a_cuda_graph(session, library):
    library.profiles[1] = ((4, 48),) * 3
    check(session, feeds(2, 5), "ctx-16")
    check(session, feeds(4, 48), "ctx-48")
    strategies = [context.config.cuda_graph_strategy for context in library.contexts]
    assert strategies == [fake.CudaGraphStrategy.DISABLED, fake.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE]


def test_compiled_kernels_are_kept_in_the_users_cache(library, make_bundle, tmp_path):
    bundle = make_bundle()
    for start in range(2):
        session = open_engine(bundle, bundle.manifest.buckets[0], "tensorrt-rtx")
        check(session, feeds(1, 3), "ctx-16")
        assert library.contexts[-1].config.cache.blob == b"+kernels" * start
        session.close()
    (cache,) = (tmp_path / "cache/tensorrt-rtx").iterdir()
    assert cache.name == f"{hashlib.sha256(ENGINE).hexdigest()}-1.7.1.116.kernels"


def test_a_cache_that_cannot_be_written_does_no_harm(library, make_bundle, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CTX_RUNTIME_CACHE", str(tmp_path / "file"))
    bundle = make_bundle()
    session = open_engine(bundle, bundle.manifest.buckets[0], "tensorrt-rtx")
    check(session, feeds(1, 3), "ctx-16")
    session.close()


def test_classic_engines_have_no_kernel_cache_and_no_validity_check(library, make_bundle, tmp_path):
    library.validity = fake.EngineValidity.INVALID, 1
    bundle = make_bundle(backend="tensorrt", targets=["ampere-plus"])
    session = open_engine(bundle, bundle.manifest.buckets[0], "tensorrt")
    check(session, feeds(1, 3), "ctx-16")
    session.close()
    assert not (tmp_path / "cache").exists()


def test_a_stripped_engine_gets_the_weights_of_its_graph(library, make_bundle):
    bundle = make_bundle(stripped=True)
    session = open_engine(bundle, bundle.manifest.buckets[0], "tensorrt-rtx")
    assert library.refitted_from == str(bundle.path("graphs/ctx-48.onnx"))
    check(session, feeds(1, 3), "ctx-16")
    session.close()


@pytest.mark.parametrize(
    ("fields", "capability", "version", "reason"),
    [
        ({}, "sm89", "1.7.1.116", None),
        ({}, "sm80", "1.7.1.116", "the engine is for sm86, sm89, this device is sm80"),
        ({}, "sm89", "1.7.2.3", "the engine is for tensorrt-rtx 1.7.1.116, this is 1.7.2.3"),
        ({"targets": ("ampere-plus",)}, "sm120", "1.7.1.116", None),
        ({"targets": ("ampere-plus",)}, "sm75", "1.7.1.116", "this device is sm75"),
        ({"targets": ("sm87", "version-compatible")}, "sm87", "1.9", None),
        ({"targets": ("sm87", "version-compatible")}, "sm87", "2.0", "this is 2.0"),
        ({"targets": ("sm87", "version-compatible")}, "sm89", "1.9", "this device is sm89"),
    ],
)
def test_what_fits_is_known_before_loading(fields, capability, version, reason):
    found = misfit(EngineRecord(**{**RECORD, **fields}), version, capability)
    assert found is None if reason is None else reason in found


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({}, "  fits this machine"),
        ({"__version__": "1.8"}, "  does not fit this machine: the engine is for tensorrt-rtx 1.7.1.116, this is 1.8"),
        ({"driver": fake.cudaError_t.cudaErrorInsufficientDriver}, "  does not fit this machine: no CUDA device: .*"),
    ],
)
def test_inspect_says_whether_an_engine_fits(library, make_bundle, capsys, change, line):
    for name, value in change.items():
        setattr(library.cuda if name == "driver" else library, name, value)
    root = str(make_bundle().root)
    for arguments in (["inspect", root], ["inspect", root, "--json"]):
        with pytest.raises(SystemExit):
            cli.main(arguments)
    text, _, answer = capsys.readouterr().out.partition("{")
    assert re.search(f"^{line}$", text, re.MULTILINE)
    misfit = json.loads("{" + answer)["misfits"][RECORD["file"]]
    assert (misfit is None) if not change else re.fullmatch(line, f"  does not fit this machine: {misfit}")


def test_the_first_engine_that_fits_is_opened(library, make_bundle, tmp_path):
    bundle = make_bundle()
    other = EngineRecord(**{**RECORD, "targets": ("sm120",)})
    manifest = bundle.manifest.model_copy(update={"engines": (other, *bundle.manifest.engines)})
    session = open_engine(Bundle(bundle.root, manifest, "0"), manifest.buckets[0], "tensorrt-rtx")
    check(session, feeds(1, 3), "ctx-16")
    session.close()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"validity": (fake.EngineValidity.INVALID, 2 | 16)}, "invalid: unsupported cc, insufficient gpu memory"),
        ({"engine": b"another"}, "can't load engines/.*magic tag"),
        ({"__version__": "1.8"}, "is for tensorrt-rtx 1.7.1.116, this is 1.8"),
    ],
)
def test_an_engine_that_does_not_fit_falls_back_once_with_the_reason(library, make_bundle, change, reason):
    for name, value in change.items():
        setattr(library, name, value)
    bundle = make_bundle()
    with pytest.raises(BackendError, match=reason):
        open_engine(bundle, bundle.manifest.buckets[0], "tensorrt-rtx")
    with Runtime.open(bundle) as runtime:
        with pytest.warns(RuntimeWarning) as told:
            result = runtime.run({"input_ids": np.arange(3, 9)})
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            runtime.run({"input_ids": np.arange(3, 9)})
        assert len(told) == 1 and result.dispatch[0].backend == "onnxruntime-cpu"
        assert [(item.bucket, item.backend) for item in runtime.stats().fallbacks] == [("ctx-16", "tensorrt-rtx")]


def test_no_driver_is_a_reason_to_fall_back(library, make_bundle):
    library.cuda.driver = fake.cudaError_t.cudaErrorInsufficientDriver
    bundle = make_bundle()
    with pytest.raises(BackendError, match="no CUDA device: CUDA says cudaErrorInsufficientDriver"):
        open_engine(bundle, bundle.manifest.buckets[0], "tensorrt-rtx")


def test_a_missing_library_names_its_extra(make_bundle):
    bundle = make_bundle(backend="tensorrt")
    try:
        import tensorrt as _installed  # noqa: F401
    except ImportError:
        with pytest.raises(MissingExtraError) as missing:
            open_engine(bundle, bundle.manifest.buckets[0], "tensorrt")
        assert missing.value.hint == "pip install 'ctx-export[tensorrt]'"
    else:
        pytest.skip("classic TensorRT is installed here")


def test_the_runtime_serves_every_bucket_from_one_session(library, make_bundle):
    with Runtime.open(make_bundle()) as runtime:
        for length in (3, 16, 17, 48, 100):
            row = np.random.default_rng(length).integers(3, 60, length)
            result = runtime.run({"input_ids": row})
            np.testing.assert_allclose(result.outputs["hidden"], expected(row[None])["hidden"][0], rtol=1e-6)
            assert result.dispatch[0].backend == "tensorrt-rtx"
        assert runtime.stats().open_sessions == 1 and runtime.stats().fallbacks == ()
    assert library.opened == 1


@pytest.mark.rtx
@pytest.mark.parametrize(("name", "stand_in", "methods"), [(n, c, m) for n, (c, m) in fake.used_names().items()])
def test_the_stand_in_has_the_real_librarys_names_and_parameters(name, stand_in, methods):
    import tensorrt_rtx

    real = getattr(tensorrt_rtx, name)
    for method in methods:
        text = getattr(real, method).__doc__
        for parameter in list(inspect.signature(getattr(stand_in, method)).parameters)[1:]:
            assert f"{parameter}:" in text, (method, parameter)


@pytest.mark.rtx
@pytest.mark.parametrize(
    "enumeration",
    [
        fake.EngineValidity,
        fake.EngineInvalidityDiagnostics,
        fake.TensorIOMode,
        fake.CudaGraphStrategy,
        fake.ExecutionContextAllocationStrategy,
    ],
)
def test_the_stand_in_has_the_real_librarys_members(enumeration):
    import tensorrt_rtx

    real = getattr(tensorrt_rtx, enumeration.__name__).__members__
    assert {name: int(real[name]) for name in enumeration.__members__} == {m.name: int(m) for m in enumeration}


@pytest.mark.rtx
def test_the_stand_in_has_the_real_cuda_bindings_names():
    from cuda.bindings import runtime

    for name in (name for name in vars(fake.FakeCuda) if name.startswith("cuda")):
        real = getattr(runtime, name)
        if inspect.isfunction(getattr(fake.FakeCuda, name)):
            for parameter in list(inspect.signature(getattr(fake.FakeCuda, name)).parameters)[1:]:
                assert parameter in real.__doc__.splitlines()[0], (name, parameter)
        else:
            assert {m.name: int(m) for m in getattr(fake.FakeCuda, name)}.items() <= {
                m.name: int(m) for m in real
            }.items()


@pytest.mark.gpu
@pytest.mark.rtx
@pytest.mark.parametrize("backend", ["tensorrt-rtx"])
def test_an_engine_gives_onnxruntimes_answers_on_a_gpu(tmp_path, backend):
    """Built for the device that runs the test, every bucket edge, batch 1 and a padded batch."""
    from ctx_export.engine_job import add_engines
    from tests.fixtures.engines import write_engine_bundle
    from tests.fixtures.graphs import source

    bundle = write_engine_bundle(tmp_path / "bert.bundle", "bert")
    add_engines(bundle.root, ["rtx:current"], cache_dir=tmp_path / "cache")
    specs = source("bert")
    with (
        Runtime.open(bundle.root, backends=[backend]) as engine,
        Runtime.open(bundle.root, backends=["onnxruntime-cpu"]) as graph,
    ):
        for lengths in ((1,), (16,), (17,), (64,), (64, 3), (16, 1, 9)):
            arrays = specs.example(len(lengths), lengths)
            found, right = engine.run(arrays), graph.run(arrays)
            assert found.dispatch[0].backend == backend
            for name, array in right.outputs.items():
                np.testing.assert_allclose(found.outputs[name], array, atol=1e-3)


def test_a_decoder_of_engines_says_that_it_can_not_generate(library, tmp_path):
    root = wrap_decoder("llama", tmp_path / "bundle", (16, 48), form="attention", backends=["tensorrt-rtx"])
    path = root / RECORD["file"]
    path.parent.mkdir(parents=True)
    path.write_bytes(ENGINE)
    edit_manifest(root, lambda manifest: manifest.update(engines=[RECORD]))
    rehash(root)
    with Runtime.open(root) as runtime:
        generation = runtime.generate([5, 6, 7], max_new_tokens=3)
        with pytest.raises(BackendError, match=r"^ctx-16: tensorrt-rtx can't run over a KV cache in place$") as refused:
            generation.tokens  # noqa: B018 (it is a property that runs)
    assert refused.value.hint == "name an onnxruntime backend"
