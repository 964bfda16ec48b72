import json

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from typer.testing import CliRunner

from ctx_export import cli
from ctx_models.checkpoint import load_model, save_model
from ctx_models.config import AdaptiveConfig
from ctx_models.heads import TaskModel
from tests.fixtures.decoder_bundles import wrap_decoder

WORDS = ["[PAD]", "[UNK]", "Ann", "sails", "to", "Rome", "."]


@pytest.fixture
def tagger(tmp_path):
    """A checkpoint of a random 2-layer tagger with a tokenizer of seven words."""
    torch.manual_seed(0)
    config = AdaptiveConfig("encoder", 40, hidden_size=16, num_layers=2, num_heads=2, head_size=8, ffn_size=16)
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    model = TaskModel(config, "token-classification", ("O", "B-PER", "B-LOC"))
    save_model(model, tmp_path / "tagger", tokenizer=tmp_path / "tokenizer.json")
    (tmp_path / "valid.txt").write_text("Ann B-PER\nsails O\n\nAnn B-PER\nsails O\nto O\nRome B-LOC\n. O\n")
    return tmp_path / "tagger"


@pytest.fixture
def retriever(tmp_path):
    """A checkpoint of a random tagger without a tokenizer."""
    torch.manual_seed(0)
    config = AdaptiveConfig("encoder", 40, hidden_size=16, num_layers=2, num_heads=2, head_size=8, ffn_size=16)
    save_model(TaskModel(config, "token-classification", ("a", "b", "c")), tmp_path / "retriever")
    return tmp_path / "retriever"


def command(*arguments):
    return CliRunner().invoke(cli.app, ["evaluate", *map(str, arguments)])


def test_data_by_length_and_sub_network(tagger, tmp_path):
    line = [tagger, "--data", tmp_path / "valid.txt", "--by-length", "2,8", "--subnetwork", "l1"]
    answer = json.loads(command(*line, "--json").stdout)
    found = [(row["max_length"], row["subnetwork"].get("layers"), row["examples"]) for row in answer["rows"]]
    assert found == [(2, None, 1), (8, None, 1), (2, 1, 1), (8, 1, 1)] and len(answer["overall"]) == 2
    assert answer["rows"][0]["metric"] == "f1" and answer["cut"] == 0
    shown = command(*line)
    assert shown.exit_code == 0 and "3..8" in shown.stdout and "l1" in shown.stdout


def test_save_keeps_the_figures_and_the_weights(tagger, tmp_path):
    before = load_model(tagger)
    result = command(tagger, "--data", tmp_path / "valid.txt", "--by-length", "2,8", "--save", "--json")
    after = load_model(tagger)
    assert list(after.quality) == json.loads(result.stdout)["rows"] and after.tokenizer is not None
    for name, tensor in before.model.state_dict().items():
        assert torch.equal(tensor, after.model.state_dict()[name])


def test_a_retrieval_task_gives_the_effective_context_length(retriever):
    line = [retriever, "--task", "multi-key", "--keys", 2, "--lengths", "32,16", "--count", 8, "--bar", "0.0"]
    answer = json.loads(command(*line, "--json").stdout)
    scores = {row["max_length"]: row["value"] for row in answer["rows"]}
    assert list(scores) == [16, 32] and all(row["examples"] == 8 for row in answer["rows"])
    expected = None if scores[16] == 0 else 16 if scores[32] == 0 else 32
    assert answer["effective_context_length"] == {"full": expected} and answer["bar"] == 0
    assert "effective context length of full" in command(*line).stdout


def test_the_plot_is_a_picture(retriever, tmp_path):
    line = [retriever, "--task", "passkey", "--lengths", "16,32", "--count", 2]
    assert command(*line, "--plot", tmp_path / "quality.png").exit_code == 0
    assert (tmp_path / "quality.png").read_bytes().startswith(b"\x89PNG")
    refused = command(*line, "--plot", tmp_path / "quality.docx")
    assert refused.exit_code == 2 and "hint: name a file that ends in .png" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "either --data or --task"),
        (["--task", "passkey", "--data", "x.txt"], "either --data or --task"),
        (["--task", "needle"], "there is no retrieval task 'needle'"),
        (["--task", "passkey", "--lengths", "a,b"], "--lengths takes numbers"),
        (["--task", "passkey", "--lengths", "4"], "do not fit"),
        (["--task", "passkey", "--subnetwork", "l9"], "layers is 1..2"),
        (["--data", "valid.txt"], "no tokenizer.json"),
    ],
)
def test_bad_input_is_one_line_and_a_hint(retriever, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "valid.txt").write_text("Ann a\n")
    result = command(retriever, *arguments)
    assert result.exit_code == 2 and message in result.stderr and len(result.stderr.splitlines()) <= 2


def test_a_language_model_is_measured_in_its_buckets(tmp_path):
    bundle = wrap_decoder("llama", tmp_path / "bundle", (16, 48), tokenizer=True)
    text = tmp_path / "text.txt"
    text.write_text(" ".join(f"t{number}" for number in range(3, 90)))
    line = [bundle, "--task", "perplexity", "--data", text, "--count", 2]
    answer = json.loads(command(*line, "--against", bundle, "--json").stdout)
    assert [(row["length"], row["place"]) for row in answer["lengths"]] == [(16, "ctx-16 fp32"), (48, "ctx-48 fp32")]
    assert all(row["agreement"] == 1 and row["perplexity"] > 1 for row in answer["lengths"])
    shown = command(*line, "--lengths", "32")
    assert shown.exit_code == 0 and "ctx-48 fp32" in shown.stdout and "perplexity" in shown.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "there is no retrieval task None"),
        (["--task", "perplexity"], "takes --task perplexity with --data TEXT"),
        (["--data", "text.txt"], "takes --task perplexity with --data TEXT"),
        (["--task", "passkey", "--save"], "a language model has no --subnetwork, --plot or --save"),
        (["--task", "passkey"], "begins several of horse"),
    ],
)
def test_what_a_language_model_does_not_take_is_said(tmp_path, options, message):
    bundle = wrap_decoder("llama", tmp_path / "bundle", (64,), tokenizer=True)
    refused = command(bundle, *options)
    assert refused.exit_code == 2 and message in refused.stderr
