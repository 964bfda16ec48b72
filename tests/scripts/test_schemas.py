"""The schemas in `runtime/` are those of the classes, and the check says so when they are not."""

from pathlib import Path

import pytest

from scripts import schemas


@pytest.mark.parametrize("name", sorted(schemas.SCHEMAS))
def test_the_schema_is_current(name: str) -> None:
    assert (schemas.FOLDER / name).read_text() == schemas.generate()[name]


def test_the_check_names_what_is_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(schemas, "FOLDER", tmp_path)
    assert schemas.main([]) == schemas.main(["--check"]) == 0
    (tmp_path / "manifest.schema.json").write_text("{}")
    (tmp_path / "profile.schema.json").unlink()
    assert schemas.main(["--check"]) == 1
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "runtime/manifest.schema.json",
        "runtime/profile.schema.json",
    ]
