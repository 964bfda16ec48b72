import json
import subprocess
import sys

import numpy as np
import pytest

from ctx_runtime.cli import main
from ctx_runtime.manifest import QualityRecord
from tests.fixtures.bundles import expected, write_tiny_bundle
from tests.fixtures.fused import write_fused_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny", tokenizer=True)


def test_run_prints_one_object_with_outputs_and_dispatch(command, bundle):
    status, out, err = command("run", bundle, "--text", "w3 w4 w5", "--json")
    answer = json.loads(out)
    assert status == 0 and err == ""
    values = expected(np.array([[3, 4, 5]]))
    np.testing.assert_allclose(answer["outputs"]["pooled"]["values"], values["pooled"][0], atol=1e-6)
    assert answer["outputs"]["hidden"] | {"values": 0} == {"shape": [3, 4], "dtype": "float32", "values": 0}
    (row,) = answer["dispatch"]
    assert row.pop("ms") > 0
    assert row == {
        "length": 3,
        "bucket": "ctx-16",
        "backend": "onnxruntime-cpu",
        "padding": 0,
        "segments": 1,
        "reason": "3 tokens fit 1..16",
    }


def test_long_outputs_go_to_the_file_and_not_to_the_terminal(command, bundle, tmp_path):
    text = tmp_path / "long.txt"
    text.write_text(" ".join(["w7"] * 400))
    status, out, _ = command("run", bundle, "--text-file", text, "--output", tmp_path / "out.npz", "--json")
    answer = json.loads(out)
    assert status == 0 and "values" not in answer["outputs"]["hidden"] and answer["dispatch"][0]["segments"] == 9
    with np.load(tmp_path / "out.npz") as arrays:
        assert arrays["hidden"].shape == (400, 4)


def test_several_texts_are_stacked_where_they_fit(command, bundle):
    _, out, _ = command("run", bundle, "--text", "w3", "--text", "w4 w5", "--json")
    outputs = json.loads(out)["outputs"]
    assert outputs["pooled"]["shape"] == [2, 4]
    assert outputs["hidden.0"]["shape"] == [1, 4] and outputs["hidden.1"]["shape"] == [2, 4]


def test_arrays_come_from_an_npz(command, bundle, tmp_path):
    np.savez(tmp_path / "in.npz", input_ids=np.array([[3, 4], [5, 6]]))
    status, out, _ = command("run", bundle, "--input", tmp_path / "in.npz", "--json")
    assert status == 0 and json.loads(out)["outputs"]["hidden"]["shape"] == [2, 2, 4]


@pytest.mark.parametrize("length", [16, 17, 49])
def test_explain_prints_one_object(command, bundle, length):
    status, out, _ = command("explain", bundle, "--length", length, "--json")
    answer = json.loads(out)
    assert status == 0 and set(answer) == {
        "length", "bucket", "network", "backend", "segments", "metric", "quality", "reason",
    }  # fmt: skip
    assert answer["bucket"] == ("ctx-16" if length == 16 else "ctx-48")


def test_quality_is_shown_and_asked_for(command, tmp_path):
    quality = QualityRecord(
        min_length=1, max_length=16, subnetwork=None, metric="f1", value=0.875, loss=None, examples=40, latency_ms=1.25,
    )  # fmt: skip
    root = write_fused_bundle(tmp_path / "fused", quality=(quality,), min_quality=0.5)
    _, out, _ = command("inspect", root)
    assert "1..16   full     f1 0.875  40        1.25" in out
    assert "longer than 48 tokens: segment, overlap 4, fused by the model" in out
    assert "an input runs where the quality at its length is at least 0.5" in out
    _, out, _ = command("explain", root, "--length", "9", "--json")
    assert (json.loads(out)["metric"], json.loads(out)["quality"]) == ("f1", 0.875)
    status, _, err = command("explain", root, "--length", "9", "--min-quality", "0.9")
    assert status == 2
    assert err.startswith("error: 9 tokens run nowhere with a quality of 0.9: the best is f1 0.875 in ctx-")


def test_verify_prints_every_case(command, bundle):
    status, out, _ = command("verify", bundle, "--json")
    answer = json.loads(out)
    assert status == 0 and answer["passed"] and len(answer["cases"]) == 4
    assert {"bucket", "length", "batch", "max_abs", "cosine", "passed"} <= set(answer["cases"][0])


def test_a_failed_check_exits_with_1(command, tmp_path):
    from ctx_runtime.manifest import Tolerance

    strict = {"tolerance": Tolerance(max_abs=1e-300, min_cosine=1.0)}
    root = write_tiny_bundle(tmp_path / "b", bucket_fields=strict)
    assert command("verify", root)[0] == 1


def test_inspect_shows_the_manifest(command, bundle):
    assert json.loads(command("inspect", bundle, "--json")[1])["manifest"]["name"] == "tiny"


@pytest.mark.parametrize(
    "arguments", [["inspect"], ["run", "--text", "w3"], ["explain", "--length", "3000"], ["verify"]]
)
def test_tables_are_for_people(command, bundle, arguments):
    status, out, err = command(arguments[0], bundle, *arguments[1:])
    assert status == 0 and err == "" and "ctx-" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--text", ""], "the input is empty"),
        (["run", "--text-file", "absent.txt"], "can't be read"),
        (["run", "--input", "absent.npz"], "is not an .npz"),
        (["explain", "--length", "0"], "at least 1"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(command, bundle, arguments, message):
    status, out, err = command(arguments[0], bundle, *arguments[1:])
    assert status == 2 and out == "" and err.startswith("error: ") and message in err and "Traceback" not in err


def test_a_folder_that_is_no_bundle_says_so_in_json_too(command, tmp_path):
    status, out, err = command("run", tmp_path, "--text", "x", "--json")
    assert status == 2 and json.loads(out)["error"]["kind"] == "BundleError" and len(err.splitlines()) <= 2


def test_debug_shows_the_traceback(bundle):
    from ctx_runtime.errors import InputError

    with pytest.raises(InputError):
        main(["run", str(bundle), "--text", "", "--debug"])


@pytest.mark.parametrize("name", ["inspect", "run", "explain", "verify"])
def test_help_has_an_example(command, name):
    status, out, _ = command(name, "--help")
    assert status == 0 and f"example: ctx-runtime {name} minilm.bundle" in " ".join(out.split())


def test_the_module_runs_as_a_program(bundle):
    line = [sys.executable, "-m", "ctx_runtime.cli", "explain", str(bundle), "--length", "5", "--json"]
    assert json.loads(subprocess.run(line, capture_output=True, text=True, check=True).stdout)["bucket"] == "ctx-16"
