import json

import pytest
from typer.testing import CliRunner

from ctx_export import cli
from ctx_runtime import Bundle
from ctx_runtime.backends.tensorrt import misfit_here
from tests.fixtures.bundles import write_tiny_bundle
from tests.fixtures.minilm import write_sentence_encoder

PROFILE = """
name: tiny
overflow: {overlap: 2}
buckets: [{max_length: 16}, {max_length: 48}]
"""


def command(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.mark.rtx
def test_a_build_with_a_target_ships_engines(tmp_path):
    write_sentence_encoder(tmp_path / "model", max_length=64)
    (tmp_path / "tiny.yaml").write_text(PROFILE)
    out = tmp_path / "out.bundle"
    built = command(
        "build", tmp_path / "model", "-p", tmp_path / "tiny.yaml", "-o", out, "--target", "rtx:sm89", "--json"
    )
    assert built.exit_code == 0 and json.loads(built.stdout)["seconds"]["engines"] > 0
    (record,) = Bundle.open(out).manifest.engines
    assert record.targets == ("sm89",) and record.optimization_profiles == {"ctx-16": 0, "ctx-48": 1}

    (listed,) = json.loads(command("engines", out, "--json").stdout)["engines"]
    assert listed["file"] == record.file and listed["bytes"] == (out / record.file).stat().st_size
    table = command("engines", out, "--inspect").stdout
    assert "sm89" in table and "ctx-48" in table and "2 ATTENTION_INPUT" in table

    (inspected,) = json.loads(command("engines", out, "--inspect", "--json").stdout)["engines"]
    assert inspected["misfit"] == misfit_here(record) and inspected["layers"]["ATTENTION_INPUT"] == 2
    assert command("engines", out, "--epcontext", tmp_path / "context").exit_code == 0
    assert {path.name for path in (tmp_path / "context").iterdir()} == {"sm89-all.engine", "sm89-all.onnx"}
    assert ("fits this machine" if inspected["misfit"] is None else "does not fit this machine: ") in table


def test_a_bundle_without_engines_says_so(tmp_path):
    bundle = write_tiny_bundle(tmp_path / "tiny.bundle")
    assert json.loads(command("engines", bundle, "--json").stdout) == {"engines": []}
    refused = command("engines", bundle, "--epcontext", tmp_path / "context")
    assert refused.exit_code == 2 and "no TensorRT-RTX engine" in refused.stderr
    assert "has no engines" in command("engines", bundle).stdout


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--target", "rtx:sm12"], "'rtx:sm12' is not a target"),
        (["--target", "rtx:sm75"], "sm75 can't run fp32"),
        (["--target", "rtx:sm89", "--layout", "one"], "'one' is not a layout"),
    ],
)
def test_a_wrong_target_is_one_line_and_exit_2(tmp_path, arguments, line):
    bundle = write_tiny_bundle(tmp_path / "tiny.bundle")
    before = sorted((path, path.stat().st_mtime_ns) for path in bundle.rglob("*"))
    refused = command("engines", bundle, *arguments, "--json")
    assert refused.exit_code == 2 and json.loads(refused.stdout)["error"]["kind"] == "EngineError"
    assert line in refused.stderr and "Traceback" not in refused.output
    assert sorted((path, path.stat().st_mtime_ns) for path in bundle.rglob("*")) == before


def test_a_wrong_target_is_refused_before_the_model_is_exported(tmp_path):
    write_sentence_encoder(tmp_path / "model", max_length=64)
    (tmp_path / "tiny.yaml").write_text(PROFILE)
    refused = command(
        "build",
        tmp_path / "model",
        "-p",
        tmp_path / "tiny.yaml",
        "-o",
        tmp_path / "out",
        "--target",
        "rtx:sm75",
        "--json",
    )
    assert refused.exit_code == 2 and "sm75" in refused.stderr and not (tmp_path / "out").exists()
