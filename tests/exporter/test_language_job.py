"""Perplexity and retrieval by length: against PyTorch's own figures, and with a reader whose score is known."""

import math

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from ctx_export.language_job import evaluate_perplexity, evaluate_retrieval
from ctx_export.language_models import open_language_model
from ctx_models.retrieval import RetrievalTask
from ctx_runtime.errors import InputError
from tests.fixtures.decoder_bundles import wrap_decoder
from tests.fixtures.decoders import reference_logits, text, write_decoder

IDS = text(70)
SENTENCES = "The word of is . What ? It grass green sky blue sun yellow Here we go There and back again"
NAMES = "Alice Bruno Clara David Emma Frank Grace Henry Irene James Karl Laura Mary Nina Oscar Paul Rose Simon Tom"
VALUES = "horse cat dog lion bear duck fish wolf snake bird"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_decoder("llama", tmp_path_factory.mktemp("language") / "model")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    stretched = {"max_length": 64, "subnetwork": {"position_resolution": {"kind": "linear", "factor": 2.0}}}
    root = tmp_path_factory.mktemp("language") / "bundle"
    return wrap_decoder("llama", root, tokenizer=True, buckets=[{"max_length": 16}, {"max_length": 48}, stretched])


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(" ".join(f"t{token}" for token in IDS))
    return path


def by_hand(length, count, scored):
    """Perplexity and accuracy of the last `scored` tokens of each window, from PyTorch without a cache."""
    surprise, hits = [], []
    for end in np.linspace(48, len(IDS), count).astype(int):
        window = IDS[end - length : end]
        logits = reference_logits("llama", window)[-scored - 1 : -1].astype(np.float64)
        truth = window[-scored:]
        surprise += list(np.log(np.exp(logits).sum(-1)) - logits[np.arange(scored), truth])
        hits += list(logits.argmax(-1) == truth)
    return math.exp(np.mean(surprise)), np.mean(hits)


def test_perplexity_by_bucket_is_that_of_pytorch_over_the_same_tokens(bundle, folder, file):
    with open_language_model(bundle) as model, open_language_model(folder) as other:
        assert model.lengths == (16, 48, 64) and other.lengths == ()
        report = evaluate_perplexity(model, file, lengths=(48, 16), count=3, against=other)
        alone = evaluate_perplexity(other, file, lengths=(16, 48), count=3)
        stretched = evaluate_perplexity(model, file, lengths=(64,), count=1, against=other).scores[0]
    assert [(score.length, score.place, score.scored) for score in report.scores] == [
        (16, "ctx-16 fp32", 24), (48, "ctx-48 fp32", 24),
    ]  # fmt: skip
    for score, folders in zip(report.scores, alone.scores, strict=True):
        perplexity, accuracy = by_hand(score.length, 3, 8)
        assert score.perplexity == pytest.approx(perplexity, rel=1e-4) == pytest.approx(folders.perplexity, rel=1e-4)
        assert score.accuracy == accuracy and score.agreement == 1 and folders.place == "PyTorch fp32"
    assert stretched.place == "ctx-64 fp32-linear2" and stretched.agreement < 1
    assert report.to_json()["lengths"][0]["agreement"] == 1 and "bar" not in report.to_json()


class _Reader:
    """Reads only the last tokens, and finds the word that follows the last name that it has seen."""

    name, lengths = "reader", ()

    def __init__(self, sight):
        words = f"[UNK] {SENTENCES} {NAMES} Victor Walter {VALUES}".split()
        self.tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="[UNK]"))
        self.tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        self._sight, self._answers = sight, [words.index(word) for word in VALUES.split()]

    def place(self, length):
        return "here"

    def begin(self, length):
        return self

    def extend(self, ids):
        logits = np.zeros(self.tokenizer.get_vocab_size())
        logits[[token for token in ids[-self._sight :] if token in self._answers]] = 1
        return logits


def test_retrieval_scores_what_is_found_by_length():
    task = RetrievalTask.named("passkey")
    settings = {"lengths": (64, 256), "count": 20, "seed": 0, "bar": 0.85}
    far = evaluate_retrieval(_Reader(256), "passkey", task, **settings)
    assert [score.accuracy for score in far.scores] == [1, 1] and far.effective == 256
    near = evaluate_retrieval(_Reader(64), "passkey", task, **settings)
    assert near.scores[0].accuracy == 1 and 0 < near.scores[1].accuracy < 0.6 and near.effective == 64
    assert near.to_json()["effective_context_length"] == 64
    assert evaluate_retrieval(_Reader(1), "passkey", task, **settings).effective is None


def test_what_can_not_be_measured_is_said(bundle, folder, file, tmp_path):
    short = tmp_path / "short.txt"
    short.write_text("t5 t6")
    with open_language_model(bundle) as model, open_language_model(folder) as other:
        for lengths, path, message in (
            ((16, 65), file, "65 tokens are more than the 64 of the largest bucket of llama"),
            ((16,), short, "the text has 2 tokens, fewer than the 16"),
            ((1, 16), file, "expected lengths of at least 2 tokens, got 1,16"),
            ((), file, "got none"),
            ((16,), tmp_path / "none.txt", r"none\.txt can't be read"),
        ):
            with pytest.raises(InputError, match=message):
                evaluate_perplexity(model, path, lengths=lengths, count=2)
        with pytest.raises(InputError, match="300 tokens are more than the 256 positions of model"):
            evaluate_perplexity(other, file, lengths=(300,), count=2)
    with (
        open_language_model(wrap_decoder("llama", tmp_path / "bare")) as model,
        pytest.raises(InputError, match="llama has no tokenizer"),
    ):
        evaluate_perplexity(model, file, lengths=(16,), count=2)
    with pytest.raises(InputError, match="is neither a model that train wrote"), open_language_model(tmp_path):
        pass
