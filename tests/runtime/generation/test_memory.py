import psutil
import pytest

from ctx_runtime.generation import memory


@pytest.mark.skipif(not psutil.LINUX, reason="only Linux says what is available")
def test_what_is_available_is_what_linux_says():
    assert memory.available_bytes() == pytest.approx(psutil.virtual_memory().available, rel=0.2)


@pytest.mark.parametrize("text", [None, "MemTotal: 5 kB\n"])
def test_a_system_that_does_not_say_is_not_asked(tmp_path, monkeypatch, text):
    path = tmp_path / "meminfo"
    if text is not None:
        path.write_text(text)
    monkeypatch.setattr(memory, "_MEMINFO", path)
    assert memory.available_bytes() is None
