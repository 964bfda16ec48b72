import os

import pytest

from ctx_export import cache as cache_module
from ctx_export.cache import BuildCache, code_digest, default_cache_dir, digest


def write(text):
    def make(folder):
        (folder / "value").write_text(text)

    return make


def test_an_entry_is_made_once(tmp_path):
    cache = BuildCache(tmp_path)
    entry, cached = cache.fetch("export", "key", write("first"))
    assert (entry / "value").read_text() == "first" and not cached
    entry, cached = cache.fetch("export", "key", write("second"))
    assert (entry / "value").read_text() == "first" and cached


def test_a_stage_that_fails_leaves_nothing(tmp_path):
    cache = BuildCache(tmp_path)

    def make(folder):
        (folder / "half").write_text("x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.fetch("export", "key", make)
    assert list((tmp_path / "export").iterdir()) == []
    assert not cache.fetch("export", "key", write("whole"))[1]


def test_an_entry_published_meanwhile_is_taken(tmp_path):
    cache = BuildCache(tmp_path)

    def make(folder):
        write("ours")(folder)
        BuildCache(tmp_path).fetch("export", "key", write("theirs"))

    entry, _ = cache.fetch("export", "key", make)
    assert (entry / "value").read_text() == "theirs"
    assert [path.name for path in entry.parent.iterdir()] == ["key"]


def test_what_was_used_longest_ago_goes_first(tmp_path):
    cache = BuildCache(tmp_path, limit_bytes=250)
    for age, key in ((30, "old"), (20, "used"), (10, "new")):
        entry, _ = cache.fetch("export", key, write("x" * 100))
        stamp = entry.stat().st_mtime - age
        os.utime(entry, (stamp, stamp))
    assert {path.name for path in (tmp_path / "export").iterdir()} == {"used", "new"}
    cache.fetch("export", "used", write(""))
    cache.fetch("export", "newest", write("x" * 100))
    assert {path.name for path in (tmp_path / "export").iterdir()} == {"used", "newest"}


def test_an_entry_larger_than_the_limit_is_kept_while_it_is_needed(tmp_path):
    entry, _ = BuildCache(tmp_path, limit_bytes=10).fetch("export", "big", write("x" * 100))
    assert entry.is_dir()


def test_digest_depends_on_every_part_and_not_on_key_order():
    assert digest("a", {"x": 1, "y": 2}) == digest("a", {"y": 2, "x": 1})
    assert len({digest("a"), digest("b"), digest("a", "b"), digest("ab"), digest(["a", "b"])}) == 5


def test_code_digest_changes_with_the_code():
    assert code_digest(cache_module) != code_digest(os)


def test_the_cache_folder_can_be_configured(monkeypatch, tmp_path):
    monkeypatch.setenv("CTX_EXPORT_CACHE", str(tmp_path))
    assert default_cache_dir() == tmp_path
    monkeypatch.delenv("CTX_EXPORT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "ctx-export"
