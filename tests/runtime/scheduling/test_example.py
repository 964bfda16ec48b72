import re
import subprocess
import sys
from pathlib import Path

from tests.fixtures.bundles import write_tiny_bundle

DOCUMENT = Path(__file__).parents[3] / "docs" / "scheduling.md"


def test_the_example_runs_and_answers_every_input(tmp_path):
    write_tiny_bundle(tmp_path / "model.bundle")
    (program,) = re.findall(r"^```python\n(.*?)^```$", DOCUMENT.read_text(), flags=re.MULTILINE | re.DOTALL)
    told = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    lines = told.stdout.splitlines()
    assert sorted(line.split()[0] for line in lines[:-1]) == ["12", "12", "12", "33", "40", "7"]
    assert "submitted=6, finished=6" in lines[-1] and told.stderr == ""
