import psutil
import pytest

from ctx_runtime.system_memory import available_bytes


def system(root, *, meminfo="MemTotal: 200 kB\nMemAvailable: 100 kB\nHugePages_Total: 0\n", **group):
    """The files of a Linux machine with 100 KiB available; `group` are those of its control group."""
    files = {"proc/meminfo": meminfo, **{f"sys/fs/cgroup/{name}": text for name, text in group.items()}}
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


@pytest.mark.skipif(not psutil.LINUX, reason="only Linux says what is available")
def test_what_is_available_is_what_linux_says():
    assert 0 < available_bytes() <= 1.2 * psutil.virtual_memory().available


def test_the_machine_says_what_is_available(tmp_path):
    assert available_bytes(system(tmp_path)) == 102400


def test_a_control_group_may_leave_less(tmp_path):
    group = {"memory.max": "70000\n", "memory.current": "50000\n", "memory.stat": "anon 1\ninactive_file 4000\n"}
    assert available_bytes(system(tmp_path, **group)) == 24000


@pytest.mark.parametrize("group", [{"memory.max": "max\n", "memory.current": "50000\n"}, {"memory.max": "70000"}])
def test_a_control_group_without_a_limit_does_not_count(tmp_path, group):
    assert available_bytes(system(tmp_path, **group)) == 102400


def test_a_system_that_does_not_say_is_not_asked(tmp_path):
    assert available_bytes(tmp_path) is None
    assert available_bytes(system(tmp_path, meminfo="MemTotal: 5 kB\n")) is None
