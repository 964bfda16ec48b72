"""Golden vectors that numpy would fail at, run code for, or pass without comparing anything, are refused."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ctx_runtime.bundle import Bundle
from ctx_runtime.errors import BundleError
from ctx_runtime.golden import read_golden
from ctx_runtime.golden_syntax import check_golden
from ctx_runtime.manifest import Manifest
from tests.fixtures.bundles import write_tiny_bundle
from tests.fixtures.mutations import mutate_bytes, seeded

HEADER = b"{'descr': '<i8', 'fortran_order': False, 'shape': (1,), }"
Arrays = dict[str, np.ndarray]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_tiny_bundle(tmp_path / "tiny")


@pytest.fixture
def path(root: Path) -> Path:
    return root / "parity/ctx-16.npz"


@pytest.fixture
def manifest(root: Path) -> Manifest:
    return Bundle.open(root).manifest


def read(path: Path) -> Arrays:
    with np.load(path) as archive:
        return dict(archive.items())


def assert_refused(path: Path, manifest: Manifest, match: str) -> None:
    with pytest.raises(BundleError, match=match) as caught:
        check_golden(path, manifest)
    assert caught.value.code == "golden-syntax"
    assert str(caught.value).isprintable()


def write_with_header(path: Path, arrays: Arrays, header: bytes) -> None:
    """Writes `arrays` with another header of `case0.lengths`, `[16]`; the checksum is right."""
    np.savez(path, **{name: array for name, array in arrays.items() if name != "case0.lengths"})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(
            "case0.lengths.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\x10" + bytes(7)
        )


@pytest.mark.parametrize("header", [HEADER + b"\n", HEADER + b" " * 100 + b"\n"])
def test_a_header_as_numpy_writes_it(path: Path, manifest: Manifest, header: bytes) -> None:
    write_with_header(path, read(path), header)
    check_golden(path, manifest)
    assert read_golden(path, manifest)[0].lengths == (16,)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        HEADER,
        b"\0\n",
        b"(((\n",
        b"'''\n",
        b"-" * 900 + b"1\n",
        b"  x\n y\n",
        b"{[]: 1}\n",
        HEADER.replace(b"'<i8'", b"('<i8',)") + b"\n",
        HEADER.replace(b"<i8", b",i8") + b"\n",
        HEADER.replace(b"<i8", b"|O") + b"\n",
        HEADER.replace(b"<i8", b">i8") + b"\n",
        HEADER.replace(b"(1,)", b"(01,)") + b"\n",
        HEADER.replace(b"(1,)", b"(1)") + b"\n",
        HEADER.replace(b"(1,)", b"(" + b"1, " * 9 + b"1)") + b"\n",
        HEADER.replace(b"(1,)", b"(999999999999999999, 999999999999999999)") + b"\n",
        HEADER + b" " * 1024 + b"\n",
    ],
)
def test_any_other_header(path: Path, manifest: Manifest, header: bytes) -> None:
    write_with_header(path, read(path), header)
    assert_refused(path, manifest, "case0.lengths")


def test_no_damage_to_a_header_gets_past(path: Path, manifest: Manifest) -> None:
    arrays, opened = read(path), 0
    for seed in range(150):
        write_with_header(path, arrays, mutate_bytes(seeded(seed), HEADER + b" " * 6 + b"\n"))
        try:
            check_golden(path, manifest)
        except BundleError:
            continue
        assert read_golden(path, manifest)[0].lengths == (16,)
        opened += 1
    assert opened < 75


def set_array(name: str, array: object) -> Callable[[Arrays], object]:
    return lambda arrays: arrays.update({name: np.array(array)})


def set_positions(positions: object, stored: int) -> Callable[[Arrays], object]:
    def change(arrays: Arrays) -> None:
        arrays["case0.positions"] = np.array(positions)
        arrays["case0.out.hidden"] = arrays["case0.out.hidden"][:, :stored]

    return change


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda arrays: arrays.pop("case0.out.pooled"), "no array case0.out.pooled"),
        (lambda arrays: arrays.pop("case0.lengths"), "no array case0.lengths"),
        (lambda arrays: [arrays.pop(name) for name in list(arrays) if "case0" in name], "no array case0.in.input_ids"),
        (set_array("case2.lengths", [1]), "no array case2.in.input_ids"),
        (set_array("case0.in.other", [1]), "no array case2.in.input_ids"),
        (set_array("case0.lengths", 16), r"int64 \(\), expected int64 \(1,\)"),
        (set_array("case0.lengths", np.array([16], np.int32)), r"int32 \(1,\), expected int64 \(1,\)"),
        (set_array("case0.lengths", [0]), r"not in 1 \.\.\. 16"),
        (set_array("case0.lengths", [17]), r"not in 1 \.\.\. 16"),
        (set_array("case0.in.input_ids", np.zeros(16, np.int64)), "case0.in.input_ids is int64"),
        (set_array("case0.in.input_ids", np.zeros((0, 16), np.int64)), "case0.in.attention_mask is int64"),
        (set_array("case0.in.attention_mask", np.zeros((1, 15), np.int64)), r"expected int64 \(1, 16\)"),
        (set_array("case0.out.pooled", np.zeros((1, 5), np.float32)), r"expected float32 \(1, 4\)"),
        (set_array("case0.out.pooled", np.zeros((1, 4), np.float16)), r"float16 \(1, 4\), expected float32"),
        (set_positions([0, 3], 3), r"expected float32 \(1, 2, 4\)"),
        (set_positions([0, 16], 2), r"not in 0 \.\.\. 15"),
        (set_positions([1, 3], 2), "do not ascend from 0"),
        (set_positions([0, 3, 3], 3), "do not ascend from 0"),
        (set_positions([[0, 3]], 2), r"int64 \(1, 2\), expected int64 \(2,\)"),
        (set_positions(np.zeros(0, np.int64), 0), r"not in 0 \.\.\. 15"),
    ],
)
def test_a_case_that_is_not_whole(
    path: Path, manifest: Manifest, change: Callable[[Arrays], object], match: str
) -> None:
    arrays = read(path)
    change(arrays)
    np.savez(path, **arrays)
    assert_refused(path, manifest, match)


def test_some_positions_may_stand_for_all(path: Path, manifest: Manifest) -> None:
    arrays = read(path)
    set_positions([0, 15], 2)(arrays)
    np.savez_compressed(path, **arrays)
    check_golden(path, manifest)


@pytest.mark.parametrize("data", [b"", b"PK\x05\x06" + bytes(18)], ids=["nothing", "an empty archive"])
def test_vectors_without_a_case_prove_nothing(path: Path, manifest: Manifest, data: bytes) -> None:
    path.write_bytes(data)
    assert_refused(path, manifest, "not a plain npz")


def test_an_archive_begins_with_its_first_entry(path: Path, manifest: Manifest) -> None:
    data = path.read_bytes()
    path.write_bytes(b"#!/bin/sh\n" + data)
    assert_refused(path, manifest, "does not begin with its first entry")


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_no_other_compression(path: Path, manifest: Manifest, compression: int) -> None:
    arrays = read(path)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.save(buffer, array)
            archive.writestr(f"{name}.npy", buffer.getvalue())
    assert_refused(path, manifest, "compressed otherwise than by deflate")
