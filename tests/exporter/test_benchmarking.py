import dataclasses
import sys

import numpy as np
import pytest

from ctx_export.bench_report import read_bench, write_bench
from ctx_export.benchmarking import InputSampler, bench
from ctx_runtime.bundle import Bundle
from ctx_runtime.decoder import DecoderRecord
from ctx_runtime.errors import InputError
from ctx_runtime.histogram import LengthHistogram
from tests.fixtures.bundles import rehash, write_tiny_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return Bundle.open(write_tiny_bundle(tmp_path_factory.mktemp("bench") / "tiny.bundle"))


@pytest.fixture(scope="module")
def report(bundle):
    return bench(bundle, seconds=0.01, traffic=LengthHistogram.of([3, 9, 20, 40, 500]), inputs=12)


def test_every_length_runs_in_its_bucket_beside_a_bare_session(report) -> None:
    assert [(row.length, row.bucket) for row in report.latency] == [
        (8, "ctx-16"), (16, "ctx-16"), (32, "ctx-48"), (48, "ctx-48"),
    ]  # fmt: skip
    for row in report.latency:
        assert 0 < row.p50_ms <= row.p95_ms <= row.p99_ms and row.rounds >= 10
        assert row.bare_p50_ms is not None and row.bare_p50_ms > 0


def test_throughput_is_of_inputs_that_the_buckets_hold(report) -> None:
    rates = report.throughput
    assert rates.inputs == 12 and 12 * 3 <= rates.tokens <= 12 * 40
    assert min(rates.together, rates.one_by_one, rates.bare) > 0 and 0 <= rates.padding_share <= 0.25


def test_opening_is_measured_in_fresh_processes(report) -> None:
    opening = report.opening
    assert opening.verify_ms > 0 and opening.first_runs_ms > 0 and opening.bare_open_ms > 0
    if sys.platform == "linux":
        assert opening.pss_bytes > 100_000 and opening.bare_pss_bytes > 100_000


def test_sizes_are_those_of_the_files(report, bundle) -> None:
    files = {file.path: file.bytes for file in bundle.manifest.files}
    assert report.sizes.weights_bytes == files["graphs/weights.bin"]
    buckets = sum(size for path, size in files.items() if "ctx-" in path)
    assert report.sizes.bucket_bytes == buckets // 2


def test_the_planner_takes_what_is_written(report, tmp_path) -> None:
    write_bench(report, tmp_path / "bench.json")
    assert read_bench(tmp_path / "bench.json") == report
    assert report.measured_latency().lengths == (8, 16, 32, 48)


def test_a_row_is_made_of_golden_inputs(bundle) -> None:
    sampler = InputSampler(bundle)
    short, long = sampler.feeds(5)["input_ids"], sampler.feeds(100)["input_ids"]
    assert short.shape == (1, 5) and long.shape == (1, 100) and set(sampler.feeds(5)) == {"input_ids"}
    assert np.array_equal(long[0, :5], short[0]) and np.array_equal(long[0, 48:53], short[0]) and long.min() >= 0


@pytest.mark.parametrize("lengths", [[0], [49]])
def test_lengths_beyond_the_buckets_are_refused(bundle, lengths) -> None:
    with pytest.raises(InputError, match=r"not in 1\.\.48"):
        bench(bundle, lengths=lengths)


def test_a_model_that_generates_text_is_refused(bundle) -> None:
    manifest = bundle.manifest.model_copy(update={"decoder": DecoderRecord.model_construct()})
    with pytest.raises(InputError, match="tiny generates text"):
        bench(dataclasses.replace(bundle, manifest=manifest))


def test_a_bundle_without_golden_vectors_has_no_inputs(tmp_path) -> None:
    root = write_tiny_bundle(tmp_path / "bare.bundle", bucket_fields={"golden": None})
    for path in root.glob("parity/*.npz"):
        path.unlink()
    rehash(root)
    with pytest.raises(InputError, match="no golden vectors"):
        bench(Bundle.open(root))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "EOF|JSON|json"),
        ("{}", "bundle: Field required"),
        ('{"bundle": 3}', "bundle: Input should be a"),
    ],
)
def test_another_file_is_one_line(tmp_path, text, message) -> None:
    (tmp_path / "bench.json").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_bench(tmp_path / "bench.json")
    assert "\n" not in str(caught.value) and "ctx-export bench" in caught.value.hint
