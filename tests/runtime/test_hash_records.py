"""A file is hashed once, and again when anything has touched it, or its record is not sound."""

from __future__ import annotations

import hashlib
import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ctx_runtime import hash_records
from ctx_runtime.bundle import Bundle
from ctx_runtime.hash_records import has_sha256
from tests.fixtures.bundles import write_tiny_bundle
from tests.fixtures.hash_records import CHANGES, DAMAGES, record_at_once, record_line, spy_on_hashing

CONTENT = bytes(range(256)) * 4096
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that was hashed and recorded; the time that it takes to settle is left out."""
    monkeypatch.setenv("CTX_RUNTIME_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hash_records, "_SETTLED_NS", 0)
    path = tmp_path / "weights.bin"
    path.write_bytes(CONTENT)
    time.sleep(0.02)  # a tick of the clock that stamps files
    assert has_sha256(path, SHA256, recorded=True)
    return path


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return spy_on_hashing(monkeypatch)


def record_of(file: Path) -> Path:
    [record] = (file.parent / "cache" / "hashes").iterdir()
    return record


def test_a_file_that_stands_still_is_hashed_once(file: Path, hashed: list[str]) -> None:
    assert has_sha256(file, SHA256, recorded=True) and not hashed
    assert has_sha256(file, SHA256, recorded=False) and hashed == ["weights.bin"]
    assert not has_sha256(file, "0" * 64, recorded=True)


def test_a_record_is_one_line_that_only_the_user_can_write(file: Path) -> None:
    status, record = file.stat(), record_of(file)
    assert record.name == f"{status.st_dev}-{status.st_ino}"
    assert record.read_text() == record_line(file, SHA256)
    assert record.stat().st_mode & 0o777 == 0o600 and record.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_was_changed_is_hashed_again(file: Path, change: Callable[[Path], object]) -> None:
    change(file)
    assert not has_sha256(file, SHA256, recorded=True)


def test_a_write_through_an_old_mapping_is_seen(file: Path) -> None:
    record_of(file).unlink()
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 0) as mapping:
        mapping[0] = CONTENT[0]
        time.sleep(0.02)
        assert has_sha256(file, SHA256, recorded=True)
        before = file.stat().st_ctime_ns
        mapping[0] = CONTENT[0] ^ 1
        if file.stat().st_ctime_ns == before:
            pytest.skip("this file system does not stamp files that are written through a mapping")
        assert not has_sha256(file, SHA256, recorded=True)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_record_that_is_not_sound_is_none(file: Path, hashed: list[str], damage: Callable[[Path], object]) -> None:
    damage(record_of(file))
    assert has_sha256(file, SHA256, recorded=True)
    assert hashed == ["weights.bin"]


def test_a_record_is_written_again(file: Path, hashed: list[str]) -> None:
    record_of(file).write_text("damaged")
    assert has_sha256(file, SHA256, recorded=True) and has_sha256(file, SHA256, recorded=True)
    assert len(hashed) == 1


def test_a_file_that_changed_a_moment_ago_is_not_recorded(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # of the time to settle
    monkeypatch.setenv("CTX_RUNTIME_CACHE", str(file.parent / "other"))
    assert has_sha256(file, SHA256, recorded=True)
    assert not (file.parent / "other").exists()


def test_a_small_file_is_not_recorded(file: Path) -> None:
    small = file.with_name("small.bin")
    small.write_bytes(b"small")
    time.sleep(0.02)
    assert has_sha256(small, hashlib.sha256(b"small").hexdigest(), recorded=True)
    record_of(file)


def test_a_file_that_changes_while_it_is_hashed_is_not_recorded(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record_of(file).unlink()
    sha256 = hash_records._sha256

    def touch_after(opened: object) -> str:
        found = sha256(opened)
        os.utime(file)
        return found

    monkeypatch.setattr(hash_records, "_sha256", touch_after)
    assert has_sha256(file, SHA256, recorded=True)
    assert not list((file.parent / "cache" / "hashes").iterdir())


def test_a_bundle_opens_with_its_weights_hashed_once(
    tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    record_at_once(monkeypatch, tmp_path / "cache")
    root = write_tiny_bundle(tmp_path / "bundle")
    every_file = sorted(path.name for path in root.rglob("*.*") if path.name != "manifest.json")
    for check, expected in (
        ("full", every_file),
        ("changed", every_file),
        ("changed", [name for name in every_file if name != "weights.bin"]),
        ("full", every_file),
        ("sizes", []),
    ):
        hashed.clear()
        Bundle.open(root, check=check)
        assert sorted(hashed) == expected


def test_a_cache_that_cannot_be_written_does_no_harm(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file.parent / "file").write_text("")
    for place in (file.parent / "file", "/proc/nowhere"):
        monkeypatch.setenv("CTX_RUNTIME_CACHE", str(place))
        assert has_sha256(file, SHA256, recorded=True)
