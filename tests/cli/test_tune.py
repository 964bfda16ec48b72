import json
import random

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from typer.testing import CliRunner

from ctx_export import cli
from ctx_export.profiles import load_profile
from ctx_models.checkpoint import load_model, save_model
from ctx_models.config import AdaptiveConfig
from ctx_models.heads import TaskModel

WORDS = ["[PAD]", "[UNK]", "Ann", "sails", "to", "Rome", "."]


@pytest.fixture(scope="module")
def tagger(tmp_path_factory):
    """A folder with a random 2-layer tagger, `ner`, and sentences of 2 to 10 words, `valid.txt`."""
    folder = tmp_path_factory.mktemp("tune")
    torch.manual_seed(0)
    config = AdaptiveConfig("encoder", 40, hidden_size=16, num_layers=2, num_heads=2, head_size=8, ffn_size=16)
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    save_model(
        TaskModel(config, "token-classification", ("O", "PER", "LOC")),
        folder / "ner",
        tokenizer=folder / "tokenizer.json",
    )
    tags, chance = {"Ann": "PER", "Rome": "LOC"}, random.Random(0)  # noqa: S311
    sentences = [chance.choices(WORDS[2:], k=chance.randint(2, 10)) for _ in range(30)]
    lines = ["".join(f"{word} {tags.get(word, 'O')}\n" for word in sentence) for sentence in sentences]
    (folder / "valid.txt").write_text("\n".join(lines))
    return folder


def command(folder, *arguments):
    line = ["tune", folder / "ner", "--data", folder / "valid.txt", "--by-length", "4,8", "--trials", 3]
    return CliRunner().invoke(cli.app, [*map(str, line), "--runtime", "pytorch", *map(str, arguments)])


def test_the_profile_is_one_that_build_takes(tagger, tmp_path):
    result = command(tagger, "-o", tmp_path / "ner.yaml", "--plot", tmp_path / "front.png", "--json")
    answer = json.loads(result.stdout)
    profile = load_profile(tmp_path / "ner.yaml")
    assert [bucket.max_length for bucket in profile.buckets] == [4, 8] and profile.name == "ner"
    chosen = [
        (bucket.subnetwork.model_dump(exclude_none=True) if bucket.subnetwork else {}) for bucket in profile.buckets
    ]
    assert chosen == [step["subnetwork"] for step in answer["policy"]]
    assert len(answer["trials"]) == 6 and answer["trials"][0]["subnetwork"] == "full"
    rows = answer["quality"]["rows"]
    assert {row["max_length"] for row in rows} == {4, 8} and all(row["latency_ms"] > 0 for row in rows)
    assert "PyTorch" in answer["latency"]
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")


def test_it_goes_on_and_saves_the_choice(tagger, tmp_path):
    first = json.loads(command(tagger, "-o", tmp_path / "ner.yaml", "--json").stdout)["trials"]
    result = command(tagger, "-o", tmp_path / "ner.yaml", "--save")
    assert result.exit_code == 0 and "latency: PyTorch" in result.stdout
    kept = load_model(tagger / "ner")
    assert kept.policy is not None and kept.policy.steps[-1][0] == 8 and kept.quality[0]["latency_ms"] > 0
    assert json.loads(command(tagger, "-o", tmp_path / "ner.yaml", "--json").stdout)["trials"] == first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "ner.txt"], "does not end in .yaml"),
        (["-o", "ner.yaml", "--by-length", "8,4"], "ascend"),
        (["-o", "ner.yaml", "--by-length", "1,4"], "no example of 1..1 tokens"),
        (["-o", "ner.yaml", "--runtime", "fortran"], "can't be measured in 'fortran'"),
        (["-o", "ner.yaml", "--storage", "missing/folder.db"], "can't be used as storage"),
    ],
)
def test_bad_input_is_one_line_and_a_hint(tagger, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = command(tagger, *arguments)
    assert result.exit_code == 2 and message in result.stderr and len(result.stderr.splitlines()) <= 2
