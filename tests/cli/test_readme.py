"""The README's commands and programs run as they stand there, and leave what it says; links lead somewhere."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("benchmarks", "docs", "runtime", "samples")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))])


def blocks(document: str, language: str) -> list[str]:
    """The fenced blocks of one language."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def commands(document: str) -> list[list[str]]:
    """The commands of a document's console blocks that are ours, without their comments."""
    lines = [line[2:] for block in blocks(document, "console") for line in block.splitlines() if line.startswith("$ ")]
    split = [shlex.split(line, comments=True) for line in lines]
    return [words for words in split if words[0] in {"ctx-export", "ctx-runtime"}]


def run(words: list[str], folder: Path) -> str:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model `minilm` that the README builds from, after all of its commands."""
    from tests.fixtures.minilm import write_sentence_encoder

    folder = tmp_path_factory.mktemp("readme")
    write_sentence_encoder(folder / "minilm")
    for words in commands("README.md"):
        run(words, folder)
    return folder


def test_the_readme_shows_each_main_command() -> None:
    shown = {tuple(words[:2]) for words in commands("README.md")}
    assert {
        ("ctx-export", "doctor"),
        ("ctx-export", "build"),
        ("ctx-runtime", "run"),
        ("ctx-runtime", "explain"),
        ("ctx-runtime", "verify"),
    } <= shown


def test_the_commands_leave_exactly_the_bundle(workshop: Path) -> None:
    bundle = workshop / "minilm.bundle"
    assert {path.name for path in workshop.iterdir()} == {"minilm", "minilm.bundle"}
    assert {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()} == {
        "manifest.json",
        *(f"graphs/ctx-{length}{form}.onnx" for length in (32, 128, 512) for form in ("", ".unmasked")),
        "graphs/weights.bin",
        "tokenizer/tokenizer.json",
        *(f"parity/ctx-{length}.npz" for length in (32, 128, 512)),
        "parity/report.json",
    }


def test_the_programs_run_and_print_what_they_say(workshop: Path) -> None:
    printed = [run([sys.executable, "-c", block], workshop) for block in blocks("README.md", "python")]
    assert printed[0].splitlines()[:2] == ["True", "(32,)"]
    assert printed[0].splitlines()[2].startswith("ctx-32 ")


@pytest.mark.parametrize(
    ("command", "keys"),
    [
        ("run minilm.bundle --text 'A sailor goes to sea.' --json", {"outputs", "dispatch"}),
        ("explain minilm.bundle --length 3000 --json", {"length", "bucket", "backend", "segments", "reason"}),
        ("verify minilm.bundle --json", {"passed", "cases"}),
    ],
)
def test_json_carries_the_documented_keys(workshop: Path, command: str, keys: set[str]) -> None:
    assert keys <= json.loads(run(["ctx-runtime", *shlex.split(command)], workshop)).keys()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_to_files_of_the_repository(document: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    targets = [target.split("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
    missing = [target for target in targets if target and not (document.resolve().parent / target).exists()]
    assert not missing
