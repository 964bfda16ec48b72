"""The sample fine-tunes a tagger on a slice of WNUT-17, builds a bundle, and tags through it."""

import re
from pathlib import Path

import pytest

DATA = Path(__file__).parents[2] / "samples" / "data"


def sentences(name, count):
    return "\n\n".join((DATA / f"wnut17-{name}.conll").read_text("utf-8").split("\n\n")[:count]) + "\n"


def test_from_sentences_to_tags_on_the_device(small_minilm, run_sample, tmp_path):
    (tmp_path / "train.conll").write_text(sentences("train", 160), encoding="utf-8")
    (tmp_path / "valid.conll").write_text(sentences("valid", 60), encoding="utf-8")
    files = ("--train", tmp_path / "train.conll", "--valid", tmp_path / "valid.conll", "--output", tmp_path / "ner")
    said = run_sample("04-ner/ner.py", small_minilm, *files, "--part", "l1", "--epochs", 4)
    learned, ran = said.split("held-out sentences through the bundle")
    assert learned.count("full     all") == 4 and learned.count("l1       all") == 4
    assert "ctx-24" in learned and "fail" not in learned
    rows = re.findall(r"^ctx-(\d+) +(fp32(?:-l1)?) +(\d+) +([\d.]+)$", ran, re.MULTILINE)
    assert [row[:2] for row in rows] == [("24", "fp32-l1"), ("128", "fp32")]
    assert sum(int(row[2]) for row in rows) == 60
    overall = [float(line.split()[7]) for line in learned.splitlines() if re.match(r"(full|l1) +all", line)]
    assert overall[-2] > 0.1 and overall[-1] > 0.1
    assert "ctx-24: " in ran and "ctx-128: " in ran


def test_a_missing_file_is_one_clear_line(small_minilm, run_sample, tmp_path):
    with pytest.raises(SystemExit, match=r"^error: absent\.conll.*\nhint: .*$"):
        run_sample("04-ner/ner.py", small_minilm, "--train", "absent.conll", "--output", tmp_path / "ner")
