import json
import random

import pytest
from typer.testing import CliRunner

from ctx_export import cli
from ctx_models.checkpoint import load_model
from ctx_models.training import TrainingConfig
from tests.fixtures.minilm import write_sentence_encoder

NOUNS, OTHERS = ("sailor", "sea", "law"), ("goes", "to", "the", "a")


def sentences(count, seed):
    """CoNLL columns, in which every noun is a thing."""
    chance = random.Random(seed)  # noqa: S311 (no secret)
    lines = []
    for _ in range(count):
        words = [chance.choice((*NOUNS, *OTHERS)) for _ in range(chance.randrange(2, 9))]
        lines += [f"{word} {'B-THING' if word in NOUNS else 'O'}" for word in words] + [""]
    return "\n".join(lines)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("train")
    write_sentence_encoder(root / "model", max_length=64)
    (root / "train.txt").write_text(sentences(80, seed=0))
    (root / "valid.txt").write_text(sentences(40, seed=1))
    return root


def line(folder, output, *more, **changes):
    files = {"train": "train.txt", "valid": "valid.txt", "model": "model"} | changes
    return [
        "train", str(folder / files["model"]), "--task", "token-classification",
        "--train", str(folder / files["train"]), "--valid", str(folder / files["valid"]),
        "-o", str(folder / output), "--batch-tokens", "128",
        *map(str, more),
    ]  # fmt: skip


def invoke(arguments):
    return CliRunner().invoke(cli.app, arguments)


@pytest.fixture(scope="module")
def trained(folder):
    settings = ("--epochs", 6, "--lr", "1e-3", "--subnetwork", "l1", "--by-length", "6", "--json")
    return invoke(line(folder, "checkpoint", *settings))


def test_train_prints_one_json_object_and_saves_a_checkpoint(trained, folder):
    assert trained.exit_code == 0, trained.output
    answer = json.loads(trained.stdout)
    assert (
        answer["labels"] == ["O", "B-THING"] and answer["settings"]["sandwich"] == ["l1"] and answer["examples"] == 80
    )
    overall = {row["subnetwork"].get("layers"): row["f1"] for row in answer["quality"]["overall"]}
    assert overall[None] > 0.9 and overall[1] > 0.9
    checkpoint = load_model(folder / "checkpoint")
    assert checkpoint.model.labels == ("O", "B-THING") and checkpoint.tokenizer is not None
    assert {(row["min_length"], row["subnetwork"].get("layers")) for row in checkpoint.quality} == {
        (1, None), (7, None), (1, 1), (7, 1),
    }  # fmt: skip
    assert not (folder / "checkpoint.training").exists()


def test_train_prints_a_table_of_quality_by_length_after_each_epoch(folder, trained):
    result = invoke(line(folder, "again", "--epochs", "2", "--by-length", "6", model="checkpoint"))
    assert result.exit_code == 0, result.output
    assert "epoch 1/2" in result.stdout and "epoch 2/2" in result.stdout and "1..6" in result.stdout
    assert "2 labels, learned from 80 examples" in result.stdout


def test_a_run_cut_off_is_resumed_to_the_same_checkpoint(folder, monkeypatch):
    from ctx_export import training_job

    def cut_off(*arguments, **named):
        raise KeyboardInterrupt

    settings = ("--epochs", "2", "--checkpoint-every", "3")
    assert invoke(line(folder, "whole", *settings)).exit_code == 0
    with monkeypatch.context() as patch:
        patch.setattr(training_job, "evaluate", cut_off)
        cut = invoke(line(folder, "broken", *settings))
    assert cut.exit_code == 130 and not (folder / "broken").exists()
    refused = invoke(line(folder, "broken", *settings))
    assert refused.exit_code == 2 and "holds an unfinished run" in refused.stderr
    resumed = invoke(line(folder, "broken", *settings, "--resume"))
    assert resumed.exit_code == 0 and "resumed after step" in resumed.stdout
    weights = [(folder / name / "model.safetensors").read_bytes() for name in ("whole", "broken")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("task", "metric", "example"),
    [
        ("text-classification", "accuracy", {"text": "the sailor goes to sea", "label": "sea"}),
        ("feature-extraction", "mrr", {"query": "the sailor", "positive": "goes to sea", "negative": "the law"}),
    ],
)
def test_jsonl_of_the_other_tasks(folder, task, metric, example):
    other = {name: "the law" if name in ("text", "query") else "law" for name in example}
    (folder / "texts.jsonl").write_text("".join(json.dumps(value) + "\n" for value in [example, other] * 6))
    files = {"train": "texts.jsonl", "valid": "texts.jsonl"}
    result = invoke([*line(folder, task, "--epochs", "2", "--json", **files), "--task", task])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["quality"]["overall"][0]["metric"] == metric
    assert load_model(folder / task).model.task == task


def test_low_rank_adapters_are_merged_into_the_checkpoint(folder):
    result = invoke(line(folder, "lora", "--epochs", "1", "--method", "lora"))
    assert result.exit_code == 0, result.output
    assert load_model(folder / "lora").model.labels == ("O", "B-THING")


def test_scalars_go_to_the_logger(folder):
    result = invoke(line(folder, "logged", "--epochs", "1", "--logger", "tensorboard"))
    assert result.exit_code == 0 and list((folder / "logged.logs").glob("events.out.tfevents.*"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "bad.txt: holds no example"),
        ("sea B-THING\nlaw THING\nto O\n", "bad.txt:2: 'THING' is no tag of a span"),
        ("sea O\nto\n", "bad.txt:2: one column"),
    ],
)
def test_a_bad_training_file_is_one_line_that_names_the_place(folder, text, message):
    (folder / "bad.txt").write_text(text)
    assert_refused(invoke(line(folder, "new", train="bad.txt")), folder, message)


def test_a_tag_unseen_in_training_is_one_line_that_names_the_place(folder):
    (folder / "bad.txt").write_text("sea O\nlaw B-LAW\n")
    assert_refused(invoke(line(folder, "new", valid="bad.txt")), folder, "bad.txt:2: the label 'B-LAW' was not seen")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--subnetwork", "l9"], "layers is 1..2"),
        (["--subnetwork", "x2"], "'x2' is no sub-network"),
        (["--sandwich", "l2"], "is the full network"),
        (["--by-length", "16,x"], "--by-length takes numbers"),
        (["--by-length", "16,8"], "edges of length buckets ascend"),
        (["--epochs", "0"], "epochs is at least 1"),
        (["--method", "dora"], "method is one of full, lora, adalora"),
        (["--logger", "mlflow"], "unknown logger 'mlflow'"),
        (["--resume"], "nothing to resume"),
    ],
)
def test_a_bad_setting_is_one_line(folder, more, message):
    assert_refused(invoke(line(folder, "new", *more)), folder, message)


@pytest.mark.parametrize(
    ("changes", "output", "message"),
    [
        ({"model": "absent"}, "new", "absent"),
        ({"train": "absent.txt"}, "new", "absent.txt: No such file"),
        ({}, "model", "is no length-adaptive model"),
    ],
)
def test_a_bad_path_is_one_line(folder, changes, output, message):
    assert_refused(invoke(line(folder, output, **changes)), folder, message)


def test_an_unknown_task_is_one_line(folder):
    assert_refused(invoke([*line(folder, "new"), "--task", "dancing"]), folder, "dancing")


def test_a_checkpoint_of_another_task_is_refused(folder, trained):
    (folder / "texts.jsonl").write_text('{"text": "the sea", "label": "x"}\n{"text": "a law", "label": "y"}\n')
    files = {"train": "texts.jsonl", "valid": "texts.jsonl", "model": "checkpoint"}
    result = invoke([*line(folder, "new", **files), "--task", "text-classification"])
    assert_refused(result, folder, "is a model for token-classification, not text-classification")


def assert_refused(result, folder, message):
    lines = result.stderr.strip().splitlines()
    assert result.exit_code == 2 and result.stdout == "" and not (folder / "new").exists(), result.output
    assert lines[0].startswith("error: ") and message in lines[0]
    assert len(lines) == 1 or (lines[1].startswith("hint: ") and len(lines) == 2)


def test_help_has_an_example():
    assert "Example: ctx-export train" in invoke(["train", "--help"]).stdout


def test_defaults_of_the_command_are_those_of_the_settings(trained):
    given = json.loads(trained.stdout)["settings"]
    plain = TrainingConfig().to_json()
    assert {name for name in plain if given[name] != plain[name]} == {"epochs", "lr", "batch_tokens", "sandwich"}
