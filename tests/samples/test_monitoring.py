"""The sample finds what happened anywhere in a long report, which the report's beginning alone does not tell."""

import re


def test_segments_and_fusion_see_the_whole_report(run_sample, tmp_path):
    said = run_sample("06-monitoring/monitor.py", "--output", tmp_path / "out")
    _, ran = said.split("held-out reports through the bundle")
    rows = re.findall(r"^ *(\d+) +(\d+)\.\.(\d+) +(\d+) +([\d.]+) +([\d.]+)$", ran, re.MULTILINE)
    segments = [int(row[0]) for row in rows]
    assert segments[0] == 1 and segments[-1] >= 6
    assert rows[0][4] == rows[0][5]
    long = [(int(row[3]), float(row[4]), float(row[5])) for row in rows if int(row[0]) >= 4]
    reports = sum(count for count, _, _ in long)
    whole, beginning = (sum(row[0] * row[which] for row in long) / reports for which in (1, 2))
    assert whole > 0.8 and whole > beginning + 0.2
