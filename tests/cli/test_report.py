import json

import pytest
from typer.testing import CliRunner

from ctx_export import cli
from ctx_export.bench_report import write_bench
from tests.fixtures.benches import made_up_bench
from tests.fixtures.bundles import write_tiny_bundle


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("report")
    write_tiny_bundle(root / "tiny.bundle")
    write_bench(made_up_bench(), root / "bench.json")
    write_bench(made_up_bench("other"), root / "other.json")
    (root / "lengths.txt").write_text("5\n9\n30\n44\n200\n")
    return root


@pytest.fixture
def command(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return lambda *words: CliRunner().invoke(cli.app, [str(word) for word in words])


def test_it_writes_one_page(command, folder) -> None:
    result = command("report", "tiny.bundle", "--bench", "bench.json", "--traffic", "lengths.txt", "-o", "report.html")
    assert result.exit_code == 0 and result.stdout == "wrote report.html\n", result.output
    assert (folder / "report.html").read_text().startswith("<!doctype html>")


def test_without_a_benchmark_the_bundle_is_measured(command, folder) -> None:
    result = command("report", "tiny.bundle", "-o", "measured.html", "--json")
    assert json.loads(result.stdout) == {
        "report": "measured.html", "bytes": (folder / "measured.html").stat().st_size,
    }  # fmt: skip
    assert "ctx-48" in (folder / "measured.html").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["absent.bundle"], "absent.bundle"),
        (["tiny.bundle", "--bench", "absent.json"], "absent.json: No such file"),
        (["tiny.bundle", "--bench", "other.json"], "other.json measured other, not tiny"),
        (["tiny.bundle", "--bench", "bench.json", "--traffic", "tiny.bundle"], "is a folder of texts"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(command, folder, words, message) -> None:
    result = command("report", *words, "-o", "never.html")
    assert result.exit_code == 2 and result.stdout == "" and not (folder / "never.html").exists()
    assert message in result.stderr.splitlines()[0] and result.stderr.startswith("error: ")


def test_help_has_an_example(command) -> None:
    assert "Example: ctx-export report" in command("report", "--help").stdout
