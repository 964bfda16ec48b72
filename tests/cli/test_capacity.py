import json

import pytest
from typer.testing import CliRunner

from ctx_export.cli import app

runner = CliRunner()


@pytest.fixture
def asked(tmp_path):
    traffic, profile = tmp_path / "lengths.txt", tmp_path / "mine.yaml"
    traffic.write_text("10\n40\n300\n" * 50)
    profile.write_text("name: mine\nbuckets: [{max_length: 64}, {max_length: 256}]\n")
    return ["capacity", "--traffic", str(traffic), "-p", str(profile), "--requests", "2000"]


def test_the_table_says_both_ways(asked):
    result = runner.invoke(app, [*asked, "--rate", "20", "--within", "400"])
    assert result.exit_code == 0, result.output
    assert "ctx-256" in result.output and "if each serves all" in result.output


def test_json_holds_the_target_and_the_replicas(asked):
    result = runner.invoke(app, [*asked, "--rate", "20", "--within", "400", "--json"])
    answer = json.loads(result.stdout)
    assert answer["target"]["rate"] == 20 and [part["name"] for part in answer["by_bucket"]] == ["ctx-64", "ctx-256"]
    assert answer["pooled"]["replicas"] >= 1 and answer["pooled"]["simulated_ms"] <= 400


def test_what_can_not_be_is_one_line(asked):
    result = runner.invoke(app, [*asked, "--rate", "20", "--within", "10"])
    assert result.exit_code == 2 and "alone, not below 10 ms" in result.output.replace("\n", " ")
