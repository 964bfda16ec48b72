"""`scripts/setup` says what is missing before it installs anything, and returns at once when nothing has changed."""

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with nothing but what the script reads."""
    (tmp_path / "scripts").mkdir()
    for name in ("scripts/setup", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def run_setup(checkout: Path, python: Path | str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": str(python)}
    return subprocess.run(["scripts/setup"], cwd=checkout, env=environment, capture_output=True, text=True, check=False)


def test_an_old_python_is_refused(checkout: Path) -> None:
    old = script(checkout / "python3.9", 'case "$1" in -V) echo Python 3.9.18;; *) exit 1;; esac')
    done = run_setup(checkout, old)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"error: Python 3.10 or newer is needed, {old} is 3.9.18",
        "hint: set PYTHON to a newer one, such as PYTHON=python3.12",
    ]


def test_an_absent_python_is_named(checkout: Path) -> None:
    done = run_setup(checkout, "python9.9")
    assert (done.returncode, done.stderr.splitlines()[0]) == (2, "error: there is no python9.9")


def test_a_python_without_venv_gets_the_package_to_install(checkout: Path) -> None:
    bare = script(checkout / "python3.12", 'case "$2" in *ensurepip*) exit 1;; esac')
    done = run_setup(checkout, bare)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        2,
        "hint: on Debian and Ubuntu: apt-get install python3-venv",
    )


def test_it_installs_once_until_the_releases_change(checkout: Path) -> None:
    script(checkout / ".venv/bin/python", 'test "$3" = --version || echo "pip $*" >> pip.log')
    for _ in range(2):
        assert run_setup(checkout, "python9.9").returncode == 0
    log = checkout / "pip.log"
    assert log.read_text().count("--editable .[dev]") == 1
    with (checkout / "constraints.txt").open("a") as constraints:
        constraints.write("typer==0.29.1\n")
    assert run_setup(checkout, "python9.9").returncode == 0
    assert log.read_text().count("--editable .[dev]") == 2


def test_a_failed_install_is_an_error_and_is_tried_again(checkout: Path) -> None:
    script(checkout / ".venv/bin/python", 'test "$3" = --version || exit 1')
    done = run_setup(checkout, "python9.9")
    assert (done.returncode, done.stderr.splitlines()[0]) == (2, "error: pip could not install the project")
    assert not list((checkout / ".venv").glob("installed-*"))


@pytest.mark.skipif(platform.system() + platform.machine() != "Linuxx86_64", reason="CUDA builds are Linux x86-64's")
@pytest.mark.parametrize(("setting", "noted"), [("global.find-links='wheels'", False), ("global.timeout='60'", True)])
def test_the_size_of_pytorch_is_noted_unless_pip_has_an_index_of_its_own(
    checkout: Path, setting: str, noted: bool
) -> None:
    lines = f'echo "{setting}"; seq 20000'  # more than a pipe holds
    script(checkout / ".venv/bin/python", f'case "$*" in *"config list") {lines};; esac')
    done = run_setup(checkout, "python9.9")
    assert (done.returncode, "note: the default index serves PyTorch with CUDA" in done.stdout) == (0, noted)
