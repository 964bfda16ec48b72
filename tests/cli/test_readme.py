"""The README's commands and programs run as they stand there, and leave what it says; links lead somewhere."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("benchmarks", "docs", "runtime", "samples")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))])


def blocks(document: str, *languages: str) -> list[tuple[str, str]]:
    """The fenced blocks of some languages, each with its language."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(rf"^```({'|'.join(languages)})\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def commands(block: str) -> list[list[str]]:
    """The commands of a console block that are ours and need no optional part, without their comments."""
    lines = [shlex.split(line[2:], comments=True) for line in block.splitlines() if line.startswith("$ ")]
    return [words for words in lines if words[0] in {"ctx-export", "ctx-runtime"} and "--target" not in words]


def follow(document: str, folder: Path) -> list[str]:
    """Do what a document says, in its order, in `folder`; what its programs print.

    A program that starts with the name of a file, `# name.py`, is saved there.
    """
    printed = []
    for language, block in blocks(document, "console", "python"):
        if language == "console":
            for words in commands(block):
                run(words, folder)
        elif name := re.match(r"# (\w+\.py)\n", block):
            (folder / name[1]).write_text(block)
        else:
            printed.append(run([sys.executable, "-c", block], folder))
    return printed


def run(words: list[str], folder: Path) -> str:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder with the model `minilm`, after all that the README says; and what its programs printed."""
    from tests.fixtures.minilm import write_sentence_encoder

    folder = tmp_path_factory.mktemp("readme")
    write_sentence_encoder(folder / "minilm")
    return folder, follow("README.md", folder)


def test_the_readme_shows_each_main_command() -> None:
    shown = {tuple(words[:2]) for _, block in blocks("README.md", "console") for words in commands(block)}
    assert {
        ("ctx-export", "doctor"),
        ("ctx-export", "build"),
        ("ctx-runtime", "run"),
        ("ctx-runtime", "explain"),
        ("ctx-runtime", "verify"),
    } <= shown


def test_the_readme_leaves_exactly_the_bundle(workshop: tuple[Path, list[str]]) -> None:
    folder, _ = workshop
    bundle = folder / "minilm.bundle"
    assert {path.name for path in folder.iterdir()} == {"minilm", "minilm.bundle"}
    assert {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()} == {
        "manifest.json",
        *(f"graphs/ctx-{length}{form}.onnx" for length in (32, 128, 512) for form in ("", ".unmasked")),
        "graphs/weights.bin",
        "tokenizer/tokenizer.json",
        *(f"parity/ctx-{length}.npz" for length in (32, 128, 512)),
        "parity/report.json",
    }


def test_the_programs_of_the_readme_print_what_it_says(workshop: tuple[Path, list[str]]) -> None:
    (printed,) = workshop[1]
    assert printed.splitlines() == ["True", "(32,)", "ctx-32: 8 tokens fit 1..32"]


def test_the_quickstart_does_what_it_says(workshop: tuple[Path, list[str]], tmp_path: Path) -> None:
    shutil.copytree(workshop[0] / "minilm", tmp_path / "minilm")
    built, ran = follow("docs/quickstart.md", tmp_path)
    assert built == "True True\n"
    ((_, said),) = blocks("docs/quickstart.md", "text")
    assert ran == said


@pytest.mark.parametrize(
    ("command", "keys"),
    [
        ("run minilm.bundle --text 'A sailor goes to sea.' --json", {"outputs", "dispatch"}),
        ("explain minilm.bundle --length 3000 --json", {"length", "bucket", "backend", "segments", "reason"}),
        ("verify minilm.bundle --json", {"passed", "cases"}),
    ],
)
def test_json_carries_the_documented_keys(workshop: tuple[Path, list[str]], command: str, keys: set[str]) -> None:
    assert keys <= json.loads(run(["ctx-runtime", *shlex.split(command)], workshop[0])).keys()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_to_files_of_the_repository(document: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    targets = [target.split("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
    missing = [target for target in targets if target and not (document.resolve().parent / target).exists()]
    assert not missing
