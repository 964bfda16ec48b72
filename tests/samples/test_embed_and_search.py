"""The sample finds the paragraph that says what the query says, and reports one clear line for what it can't open."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "samples" / "01-embed-and-search" / "search.py"
PARAGRAPHS = ("the law", "a sailor goes to sea. a sailor goes", "sea to the sea " * 20)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    from ctx_export.pipeline import build
    from tests.fixtures.minilm import write_sentence_encoder

    folder = tmp_path_factory.mktemp("sample")
    build(write_sentence_encoder(folder / "minilm"), "edge-cpu", folder / "minilm.bundle")
    return folder / "minilm.bundle"


def search(*arguments):
    return subprocess.run([sys.executable, PROGRAM, *arguments], capture_output=True, text=True, check=False)


def test_a_query_finds_its_own_paragraph(bundle, tmp_path):
    (tmp_path / "words.txt").write_text("\n\n".join(PARAGRAPHS))
    done = search(bundle, *PARAGRAPHS, "--texts", tmp_path, "--top", "1")
    assert done.returncode == 0, done.stderr
    head, *answers = done.stdout.strip().split("\n\n")
    assert head == "3 paragraphs: 2 in ctx-32, 1 in ctx-128, 0 in ctx-512"
    found = [answer.splitlines()[1] for answer in answers]
    assert [line[:20] for line in found] == [f"  1.00 words: {text}"[:20] for text in PARAGRAPHS]


def test_what_is_not_a_bundle_is_one_clear_line(tmp_path):
    done = search(tmp_path, "sea")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr
