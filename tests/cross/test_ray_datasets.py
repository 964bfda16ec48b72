"""A corpus through Ray Data answers as `Runtime.run` does, row by row."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ctx_runtime import Runtime
from ctx_runtime.errors import InputError
from tests.fixtures.bundles import VOCABULARY, write_tiny_bundle
from tests.fixtures.ray import NEEDS_RAY, start_ray

pytestmark = [pytest.mark.slow, NEEDS_RAY]


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    bundle = write_tiny_bundle(tmp_path_factory.mktemp("ray") / "tiny.bundle", tokenizer=True)
    with Runtime.open(bundle) as opened:
        yield opened


@pytest.fixture(scope="module")
def data():
    ray = start_ray(cpus=2)
    from ray import data

    data.DataContext.get_current().enable_progress_bars = False
    yield data
    ray.shutdown()


def lengths(count):
    return np.random.default_rng(0).integers(1, 120, count)


def test_texts_get_every_output_that_is_asked_for(data, runtime):
    from ctx_runtime.ray.datasets import embed_dataset

    rows = [{"id": index, "text": " ".join(["w7"] * length)} for index, length in enumerate(lengths(300))]
    done = embed_dataset(
        data.from_items(rows), runtime.bundle.root, outputs=["pooled", "hidden"], workers=2, rows=100
    ).take_all()
    assert sorted(row["id"] for row in done) == list(range(300))
    for row in done:
        assert row["text"] == rows[row["id"]]["text"]
        expected = runtime.run_text(row["text"]).outputs
        for name in ("pooled", "hidden"):
            np.testing.assert_allclose(row[name], expected[name], atol=1e-6)


def test_token_ids_get_the_vector_of_each_row(data, runtime):
    from ctx_runtime.ray.datasets import embed_dataset

    rows = [{"ids": np.random.default_rng(n).integers(1, VOCABULARY, n)} for n in lengths(50)]
    for row in embed_dataset(data.from_items(rows), runtime.bundle.root, column="ids").take_all():
        expected = runtime.run({"input_ids": row["ids"]}).outputs["pooled"]
        assert row.keys() == {"ids", "pooled"}
        np.testing.assert_allclose(row["pooled"], expected, atol=1e-6)


def test_an_output_that_the_bundle_lacks_is_refused_before_anything_runs(data, runtime):
    from ctx_runtime.ray.datasets import embed_dataset

    with pytest.raises(InputError, match="has no output 'logits'"):
        embed_dataset(data.from_items([{"text": "w1"}]), runtime.bundle.root, outputs=["logits"])


def test_the_sample_writes_a_vector_for_each_paragraph(data, runtime, tmp_path):
    program = Path(__file__).parents[2] / "samples/08-offline-corpus/embed.py"
    line = [sys.executable, program, runtime.bundle.root, tmp_path / "embedded"]
    done = subprocess.run(list(map(str, line)), capture_output=True, text=True, check=False)
    assert "61 paragraphs in " in done.stdout, done.stdout + done.stderr
    rows = data.read_parquet(str(tmp_path / "embedded")).take_all()
    assert len(rows) == 61
    for row in rows:
        expected = runtime.run_text(row["text"]).outputs["pooled"]
        np.testing.assert_allclose(np.ravel(row["pooled"]), expected, atol=1e-6)
