import json

import pytest
from typer.testing import CliRunner

from ctx_export import cli
from tests.fixtures.bundles import write_tiny_bundle


@pytest.fixture
def command(tmp_path, monkeypatch):
    write_tiny_bundle(tmp_path / "tiny.bundle")
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(cli.app, ["triton", *words])


def test_it_ends_with_a_table_of_models(command):
    result = command("tiny.bundle", "-o", "models")
    assert result.exit_code == 0, result.output
    assert "tiny-fp32-unmasked  onnxruntime  up to 48 tokens, without padding" in result.stdout
    assert "models: " in result.stdout and "one copy of the weights for all graphs" in result.stdout.replace("\n", " ")


def test_json_is_one_object(command, tmp_path):
    said = json.loads(command("tiny.bundle", "-o", "models", "--json").stdout)
    assert said["models"][0] == {
        "name": "tiny", "backend": "python", "buckets": ["ctx-16", "ctx-48"], "serves": "any length",
    }  # fmt: skip
    assert said["repository"] == str(tmp_path / "models") and said["linked"] and said["left_out"] == {}


def test_what_is_not_ours_is_refused_in_one_line(command, tmp_path):
    (tmp_path / "models/resnet").mkdir(parents=True)
    result = command("tiny.bundle", "-o", "models")
    assert result.exit_code == 2 and (tmp_path / "models/resnet").exists()
    assert "was not written by `ctx-export triton`" in result.output and "name another place with -o" in result.output
