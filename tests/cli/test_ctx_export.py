import json
import re
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

from ctx_export import __main__, cli
from tests.fixtures.minilm import write_sentence_encoder

PROFILE = "name: tiny\noverflow: {overlap: 2}\nbuckets: [{max_length: 16}, {max_length: 48}]\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, a profile and the bundle that the command makes of them."""
    root = tmp_path_factory.mktemp("work")
    write_sentence_encoder(root / "model", max_length=64)
    (root / "tiny.yaml").write_text(PROFILE)
    return root


@pytest.fixture
def command():
    def run(*arguments):
        return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])

    return run


@pytest.fixture(scope="module")
def built(folder):
    line = ["build", folder / "model", "-p", folder / "tiny.yaml", "-o", folder / "out.bundle", "--json"]
    return CliRunner().invoke(cli.app, list(map(str, line)))


def test_build_prints_one_json_object_and_nothing_else_on_stdout(built, folder):
    answer = json.loads(built.stdout)
    assert built.exit_code == 0 and answer["bundle"] == str(folder / "out.bundle") and answer["parity"]["passed"]


def test_build_ends_with_a_table(command, folder, built):
    result = command("build", folder / "model", "-p", folder / "tiny.yaml", "-o", folder / "out.bundle")
    assert result.exit_code == 0 and "ctx-48" in result.stdout and "from the cache: export" in result.stdout


@pytest.mark.parametrize("against", [True, False])
def test_verify_runs_the_golden_vectors_or_the_model(command, folder, built, against):
    line = ["verify", folder / "out.bundle", *(["--against", folder / "model"] if against else []), "--json"]
    answer = json.loads(command(*line).stdout)
    assert answer["passed"] and len(answer["cases"]) == (16 if against else 4)
    assert {"bucket", "length", "batch", "max_abs", "cosine", "passed"} <= set(answer["cases"][0])


def test_verify_exits_with_1_when_a_check_fails(command, folder, built, tmp_path):
    from safetensors.torch import load_file, save_file

    other = write_sentence_encoder(tmp_path / "other", max_length=64)
    weights = load_file(other / "model.safetensors")
    save_file({name: tensor + 0.05 for name, tensor in weights.items()}, other / "model.safetensors")
    result = command("verify", folder / "out.bundle", "--against", other)
    assert result.exit_code == 1 and "fail" in result.stdout


def test_a_checkpoint_with_a_factory(command, folder, tmp_path, monkeypatch):
    (tmp_path / "my_models.py").write_text(
        "import torch\n"
        "def make():\n"
        "    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh()), {'input': torch.randn(2, 5, 4)}\n"
    )
    monkeypatch.chdir(tmp_path)
    from safetensors.torch import save_file

    save_file({"0.weight": torch.randn(3, 4), "0.bias": torch.randn(3)}, tmp_path / "net.safetensors")
    line = ["build", "net.safetensors", "--factory", "my_models:make", "-p", folder / "tiny.yaml", "-o", "net.bundle"]
    result = command(*line, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["parity"]["worst"]["max_abs"] < 1e-5


def test_doctor_names_every_part_and_how_to_get_it(command):
    answer = json.loads(command("doctor", "--json").stdout)
    backends = {part["name"]: part for part in answer["backends"]}
    assert backends["onnxruntime-cpu"]["available"]
    assert backends["onnxruntime-cuda"]["available"] or "pip install" in backends["onnxruntime-cuda"]["hint"]
    assert "onnxruntime-cpu" in command("doctor").stdout


@pytest.mark.rtx
def test_doctor_names_the_version_of_a_library_and_what_it_builds_for(command):
    builders = {part["name"]: part for part in json.loads(command("doctor", "--json").stdout)["builders"]}
    built = builders["tensorrt-rtx"]
    assert built["available"] and re.search(r"tensorrt_rtx \d+\.\d+.* no GPU needed: sm75, .*sm121", built["detail"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "absent"}, "absent"),
        ({"profile": "absent-profile"}, "absent-profile"),
        ({"output": "model"}, "is not a bundle"),
        ({"task": "token-dancing"}, "token-dancing"),
    ],
)
def test_bad_input_is_one_line_a_hint_and_exit_2(command, folder, built, change, message):
    given = {"model": folder / "model", "profile": folder / "tiny.yaml", "output": "new", "task": ""} | change
    task = ["--task", given["task"]] if given["task"] else []
    model = folder / given["model"]
    result = command("build", model, "-p", given["profile"], "-o", folder / given["output"], *task)
    lines = result.stderr.strip().splitlines()
    assert result.exit_code == 2 and result.stdout == "" and not (folder / "new").exists()
    assert lines[0].startswith("error: ") and message in lines[0] and lines[1].startswith("hint: ") and len(lines) == 2


def test_an_error_is_json_too_where_json_was_asked_for(command, folder):
    result = command("verify", folder / "model", "--json")
    assert result.exit_code == 2 and json.loads(result.stdout)["error"]["kind"] == "BundleError"


def test_debug_raises(command, folder):
    assert command("verify", folder / "model", "--debug").exception is not None


@pytest.mark.parametrize("name", ["build", "verify", "doctor"])
def test_help_has_an_example(command, name):
    assert f"Example: ctx-export {name}" in command(name, "--help").stdout


def test_help_does_not_load_torch():
    code = "import sys, ctx_export.cli; print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"


def test_a_missing_extra_is_a_pip_line(monkeypatch, capsys):
    monkeypatch.setattr(__main__, "find_spec", lambda name: None if name == "torch" else object())
    with pytest.raises(SystemExit) as caught:
        __main__.main()
    assert caught.value.code == 2 and "pip install 'ctx-export[export]'" in capsys.readouterr().err
