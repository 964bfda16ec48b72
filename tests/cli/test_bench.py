import json

import pytest
from typer.testing import CliRunner

from ctx_export import cli
from tests.fixtures.bundles import write_tiny_bundle


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A bundle, its traffic, and what `bench` wrote of both."""
    root = tmp_path_factory.mktemp("bench")
    write_tiny_bundle(root / "tiny.bundle")
    (root / "lengths.txt").write_text("\n".join(map(str, [5, 9, 9, 14, 30, 44])))
    return root


@pytest.fixture
def command(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return lambda *words: CliRunner().invoke(cli.app, [str(word) for word in words])


@pytest.fixture(scope="module")
def benched(folder):
    line = ["bench", folder / "tiny.bundle", "--lengths", "8,16,48", "--seconds", 0.01, "-o", folder / "bench.json"]
    line += ["--traffic", folder / "lengths.txt", "--inputs", 8]
    return CliRunner().invoke(cli.app, list(map(str, line)))


def test_it_ends_with_a_table(benched) -> None:
    assert benched.exit_code == 0, benched.output
    assert "runtime / bare" in benched.stdout and "8 inputs: " in benched.stdout and "verified in " in benched.stdout


def test_what_it_writes_is_what_plan_takes_with_budgets(command, benched, folder) -> None:
    sizes = json.loads((folder / "bench.json").read_text())["sizes"]
    disk = sizes["weights_bytes"] + 2 * sizes["bucket_bytes"] + 10
    line = ["plan", "--traffic", "lengths.txt", "--cost", "bench.json", "--disk-budget", f"{disk} B", "--json"]
    answer = json.loads(command(*line, "-o", "fit.yaml", "--min-gain", 0, "--memory-budget", "1 GB").stdout)
    assert len(answer["buckets"]) == 2 and answer["latency"]["lengths"] == [8, 16, 48]


def test_json_is_the_same_object(command, folder) -> None:
    result = command("bench", "tiny.bundle", "--lengths", "8,16", "--seconds", 0.01, "--json")
    assert [row["length"] for row in json.loads(result.stdout)["latency"]] == [8, 16]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["absent.bundle"], "absent.bundle"),
        (["tiny.bundle", "--lengths", "8,many"], "'8,many' is not a list of lengths"),
        (["tiny.bundle", "--lengths", "4096"], "not in 1..48"),
        (["tiny.bundle", "--traffic", "absent.txt"], "absent.txt can't be read"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(command, words, message) -> None:
    result = command("bench", *words)
    lines = result.stderr.strip().splitlines()
    assert result.exit_code == 2 and result.stdout == "" and lines[0].startswith("error: ") and message in lines[0]


def test_help_has_an_example(command) -> None:
    assert "Example: ctx-export bench" in command("bench", "--help").stdout
