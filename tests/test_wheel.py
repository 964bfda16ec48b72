"""The wheel as a user gets it: its files, and a device with `[cpu]` only that runs a bundle."""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
BUILD_SIDE = ("torch", "onnx", "onnx_ir", "onnxscript", "transformers", "safetensors", "typer", "rich")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def device(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of a clean environment with the wheel and its extra `cpu`."""
    folder = tmp_path_factory.mktemp("device")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    try:
        pip("--python", python, "install", "--constraint", ROOT / "constraints.txt", f"{wheel}[cpu]")
    except subprocess.CalledProcessError as error:
        if os.environ.get("CI") or "connection broken" not in error.stderr:
            raise
        pytest.skip("no package index can be reached")
    return python.parent


def pip(*arguments: str | Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--quiet",
        "--retries=1",
        *map(str, arguments),
    ]
    subprocess.run(command, check=True, capture_output=True, text=True)


def test_the_wheel_holds_the_packages_and_the_profiles_and_nothing_else(wheel: Path) -> None:
    files = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert {name.split("/")[0] for name in files} == {"ctx_export", "ctx_models", "ctx_runtime"}
    assert {f"{package}/py.typed" for package in ("ctx_export", "ctx_models", "ctx_runtime")} <= files
    shipped = {path.name for path in (ROOT / "profiles").glob("*.yaml")}
    assert {Path(name).name for name in files if name.endswith(".yaml")} == shipped
    templates = {path.name for path in (ROOT / "exporter" / "ctx_export" / "templates").iterdir()}
    assert {Path(name).name for name in files if name.startswith("ctx_export/templates/")} == templates
    assert {Path(name).suffix for name in files} == {".py", ".typed", ".yaml", ".j2"}


def test_the_shipped_profiles_are_found_by_name_in_the_wheel(wheel: Path, tmp_path: Path) -> None:
    ZipFile(wheel).extractall(tmp_path)
    program = "import ctx_export.profiles as p; print(p.__file__, [p.load_profile(n).name for n in p.profile_names()])"
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    printed = subprocess.run(
        [sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True
    )
    names = sorted(path.stem for path in (ROOT / "profiles").glob("*.yaml"))
    assert printed.stdout == f"{tmp_path / 'ctx_export' / 'profiles.py'} {names}\n"


def test_the_device_has_none_of_the_build_side(device: Path) -> None:
    program = f"from importlib.util import find_spec; print([name for name in {BUILD_SIDE} if find_spec(name)])"
    printed = subprocess.run([device / "python", "-c", program], check=True, capture_output=True, text=True)
    assert printed.stdout == "[]\n"


def test_the_device_runs_a_bundle_from_text_to_numbers(device: Path, tmp_path: Path) -> None:
    from tests.fixtures.bundles import expected, write_tiny_bundle

    bundle = write_tiny_bundle(tmp_path / "tiny", tokenizer=True)
    command = [device / "ctx-runtime", "run", bundle, "--text", "w3 w4 w5", "--json"]
    printed = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    answer = json.loads(printed.stdout)
    assert answer["dispatch"][0]["backend"] == "onnxruntime-cpu"
    for name, values in expected(np.array([[3, 4, 5]])).items():
        np.testing.assert_allclose(answer["outputs"][name]["values"], values[0], atol=1e-6)


def test_the_build_command_names_its_extra_on_the_device(device: Path) -> None:
    done = subprocess.run([device / "ctx-export", "doctor"], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] == "hint: pip install 'ctx-export[export]'"
