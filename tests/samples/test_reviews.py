"""The sample recommends from long reviews; their beginnings alone say little."""

import re


def test_long_reviews_are_read_to_their_end(small_minilm, run_sample, tmp_path):
    said = run_sample(
        "07-reviews/recommend.py", small_minilm, "--output", tmp_path / "out", "--lr", "1e-3", "--epochs", 5
    )
    _, ran = said.split("held-out reviews through the bundle")
    rows = re.findall(r"^ *(\d+)\.\.(\d+) +(\d+) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+)$", ran, re.MULTILINE)
    assert len(rows) == 4 and rows[0][2] == "1" and int(rows[-1][2]) > 2
    assert rows[0][3] == rows[0][4] and rows[0][5] == rows[0][6]
    assert float(rows[0][5]) > 0.6 and float(rows[-1][5]) > float(rows[-1][6])
    assert len(re.findall(r"^who reviewed .+ may like .+, .+ \(\d+ tokens in \d+ segments", ran, re.MULTILINE)) == 3
