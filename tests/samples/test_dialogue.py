"""The sample classifies conversations as their histories grow through the buckets."""

import re


def test_histories_grow_through_the_buckets(small_minilm, run_sample, tmp_path):
    said = run_sample(
        "05-dialogue/dialogue.py", small_minilm, "--output", tmp_path / "out", "--part", "l1", "--epochs", "8"
    )
    _, ran = said.split("held-out histories through the bundle")
    rows = re.findall(r"^ctx-(\d+) +(\S+) +(\d+) +(\d+) +(\d+)$", ran, re.MULTILINE)
    assert [row[:2] for row in rows] == [("32", "fp32-l1"), ("64", "fp32"), ("128", "fp32")]
    histories, intents, urgencies = (sum(int(row[column]) for row in rows) for column in (2, 3, 4))
    assert histories == 15 and intents >= 9 and urgencies >= 9
    turns = re.findall(r"^ +(\d) +(\d+) +ctx-(\d+) +(\w+) +(normal|urgent) +[01]\.\d+", ran, re.MULTILINE)
    assert [turn[0] for turn in turns[:3]] == ["1", "3", "5"]
    buckets = [int(turn[2]) for turn in turns[:3]]
    assert buckets == sorted(buckets) and len(set(buckets)) > 1
