import json
import os
import signal
import subprocess
import sys

import pytest

from ctx_export import folders
from ctx_export.bundle_writer import BundleWriter
from ctx_runtime.bundle import Bundle
from ctx_runtime.errors import BuildError, BundleError
from ctx_runtime.manifest import Manifest
from tests.fixtures.bundles import write_tiny_bundle


@pytest.fixture
def old(tmp_path):
    return Bundle.open(write_tiny_bundle(tmp_path / "out.bundle"))


def publish(old, **changes):
    with BundleWriter(old.root, copy_from=old) as writer:
        writer.write_manifest(old.manifest.model_copy(update=changes))
        return writer.publish()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_new_bundle_takes_the_place_of_the_old_one(old):
    assert publish(old, name="new").manifest.name == "new"
    assert Bundle.open(old.root).manifest.name == "new" and names(old.root.parent) == ["out.bundle"]


def test_where_folders_cannot_be_exchanged_two_renames_do_it(old, monkeypatch):
    monkeypatch.setattr(folders.ctypes, "CDLL", lambda *_, **__: object())
    assert publish(old, name="new").manifest.name == "new" and names(old.root.parent) == ["out.bundle"]


def test_a_build_that_fails_leaves_the_old_bundle(old):
    with pytest.raises(RuntimeError), BundleWriter(old.root) as writer:
        (writer.root / "graphs").mkdir()
        raise RuntimeError
    assert Bundle.open(old.root) == old and names(old.root.parent) == ["out.bundle"]


def test_an_unsound_bundle_is_not_published(old):
    with pytest.raises(BundleError), BundleWriter(old.root, copy_from=old) as writer:
        writer.write_manifest(old.manifest)
        (writer.root / "graphs/ctx-16.onnx").write_bytes(b"")
        writer.publish()
    assert Bundle.open(old.root) == old


def test_the_same_folder_gives_the_same_manifest(old):
    before = (old.root / "manifest.json").read_bytes()
    publish(old)
    after = (old.root / "manifest.json").read_bytes()
    assert Manifest.model_validate_json(before) == Manifest.model_validate_json(after)
    publish(old)
    assert (old.root / "manifest.json").read_bytes() == after


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_is_not_a_bundle_is_never_replaced(old, tmp_path, kind):
    target = tmp_path / "precious"
    if kind == "folder":
        target.mkdir()
        (target / "notes").write_text("mine")
    elif kind == "file":
        target.write_text("mine")
    else:
        target.symlink_to(old.root)
    with pytest.raises(BuildError, match="is not a bundle"):
        BundleWriter(target)
    assert target.exists()


def test_a_place_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BuildError, match="can't write a bundle"), BundleWriter(tmp_path / "file" / "out"):
        pass


KILLED = """
import sys, time
from pathlib import Path
from ctx_export.bundle_writer import BundleWriter
with BundleWriter(Path(sys.argv[1])) as writer:
    (writer.root / "half").write_text("x")
    print("ready", flush=True)
    time.sleep(60)
"""


def test_a_killed_build_leaves_the_old_bundle_and_the_next_one_cleans_up(old):
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(old.root)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert Bundle.open(old.root) == old and len(names(old.root.parent)) == 2
    publish(old)
    assert names(old.root.parent) == ["out.bundle"]


def test_a_build_that_still_runs_keeps_its_folder(old):
    partial = old.root.with_name(f".{old.root.name}.partial-{os.getppid()}")
    partial.mkdir()
    publish(old)
    assert partial.is_dir()


def test_a_bundle_put_aside_by_a_killed_build_comes_back(old):
    old.root.rename(old.root.with_name(".out.bundle.partial-999999999.old"))
    with BundleWriter(old.root):
        assert Bundle.open(old.root).manifest == old.manifest


def test_the_manifest_is_canonical(old):
    publish(old)
    text = (old.root / "manifest.json").read_text()
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n"
