import json
import re

import pytest
from typer.testing import CliRunner

from ctx_export import cli
from ctx_export.profiles import load_profile
from tests.fixtures.traffic import MOBY_DICK


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*arguments, traffic=MOBY_DICK, output="mine.yaml"):
        line = ["plan", "--traffic", traffic, "-o", output, "--resamples", 5, *arguments]
        return CliRunner().invoke(cli.app, [str(word) for word in line])

    return run


def test_it_writes_a_profile_and_ends_with_tables(plan, tmp_path) -> None:
    result = plan("--buckets", 4, "-p", "edge-cpu")
    assert result.exit_code == 0, result.output
    assert "2,513 inputs -> mine.yaml" in result.stdout and "ctx-1031" in result.stdout
    assert "bucket 5 would save" in result.stdout and "5 resamples" in result.stdout
    assert load_profile(tmp_path / "mine.yaml").resolve()[-1].max_length == 1031


def test_json_is_one_object_on_stdout(plan, tmp_path) -> None:
    answer = json.loads(plan("--buckets", 3, "--json").stdout)
    ends = [bucket["max_length"] for bucket in answer["buckets"]]
    assert ends == [entry.max_length for entry in load_profile(tmp_path / answer["profile"]).buckets]
    assert answer["padding_rule"] == "bucket" and len(answer["stability"]["ends"]) == len(ends)


def test_a_planned_profile_builds(plan, tmp_path) -> None:
    from ctx_export.pipeline import build
    from tests.fixtures.minilm import write_sentence_encoder

    plan("--buckets", 2, "--max-length", 48, "--min-gain", 0)
    report = build(write_sentence_encoder(tmp_path / "model", max_length=64), "./mine.yaml", tmp_path / "out.bundle")
    assert report.parity.passed and report.bundle.manifest.max_length == 48
    assert len(report.bundle.manifest.buckets) == 2


@pytest.mark.parametrize("name", ["plan.png", "plan.svg"])
def test_the_plot_is_a_picture(plan, tmp_path, name) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra `plan`")
    assert plan("--plot", name).exit_code == 0
    assert (tmp_path / name).read_bytes()[:5] in {b"\x89PNG\r", b"<?xml"}


def test_more_than_the_model_holds_is_planned_as_segments(plan, tmp_path) -> None:
    answer = json.loads(plan("--max-length", 256, "--json").stdout)
    assert answer["inputs"] > 2513 and answer["buckets"][-1]["max_length"] == 256
    assert load_profile(tmp_path / "mine.yaml").overflow.overlap == 32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cost", "1,2"], "1,2: No such file"),
        (["--cost", "1,2,x"], "'1,2,x' is not three numbers"),
        (["--cost", "1,-2,0"], "no latency grows as"),
        (["--padding", "exact", "--batch", "4"], "no batch of 4"),
        (["--memory-budget", "1 GB"], "needs to know what the bundle takes"),
        (["--buckets", "0"], "at least 1 bucket"),
        (["--build-budget", "3"], "one bucket takes 5 seconds of build time"),
        (["-p", "absent"], "no resource profile is named 'absent'"),
        (["--plot", "plan.docx"], "plan.docx can't be written"),
    ],
)
def test_bad_input_is_one_line_a_hint_and_exit_2(plan, arguments, message) -> None:
    result = plan(*arguments)
    lines = result.stderr.strip().splitlines()
    assert result.exit_code == 2 and result.stdout == "" and lines[0].startswith("error: ") and message in lines[0]
    assert len(lines) <= 2 and all(line.startswith("hint: ") for line in lines[1:])


def test_traffic_that_is_not_there_is_named(plan) -> None:
    result = plan(traffic="absent.csv")
    assert result.exit_code == 2 and "absent.csv can't be read" in result.stderr


def test_the_document_shows_what_the_command_prints(plan) -> None:
    text = (MOBY_DICK.parents[2] / "docs/planning.md").read_text()
    shown = re.search(r"^ms an input.*?\n\n", text, flags=re.MULTILINE | re.DOTALL)[0]
    printed = [line.split() for line in plan().stdout.splitlines()]
    assert all(line.split() in printed for line in shown.splitlines())


def test_help_has_an_example(plan) -> None:
    assert "Example: ctx-export plan" in CliRunner().invoke(cli.app, ["plan", "--help"]).stdout
