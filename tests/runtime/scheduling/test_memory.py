import pytest

from ctx_runtime.scheduling.memory import MemoryGate, available_bytes


def system(root, *, meminfo="MemTotal: 200 kB\nMemAvailable: 100 kB\nHugePages_Total: 0\n", **group):
    """The files of a Linux machine with 100 KiB available; `group` are those of its control group."""
    for path, text in {
        "proc/meminfo": meminfo,
        **{f"sys/fs/cgroup/{name}": text for name, text in group.items()},
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def test_the_machine_says_what_is_available(tmp_path):
    assert available_bytes(system(tmp_path)) == 102400
    assert 0 < available_bytes() < 1 << 50


def test_a_control_group_may_leave_less(tmp_path):
    group = {"memory.max": "70000\n", "memory.current": "50000\n", "memory.stat": "anon 1\ninactive_file 4000\n"}
    assert available_bytes(system(tmp_path, **group)) == 24000


@pytest.mark.parametrize("group", [{"memory.max": "max\n", "memory.current": "50000\n"}, {"memory.max": "70000"}])
def test_a_control_group_without_a_limit_does_not_count(tmp_path, group):
    assert available_bytes(system(tmp_path, **group)) == 102400


def test_a_system_that_says_nothing_limits_nothing(tmp_path):
    assert available_bytes(tmp_path) == float("inf")


def test_room_is_what_running_batches_leave():
    gate = MemoryGate(100)
    assert gate.room() == 100 and gate.refusal(100) is None
    gate.taken = 70
    assert gate.room() == 30 and gate.refusal(100) is None
    assert "101 bytes" in str(gate.refusal(101))


def test_without_a_limit_the_machine_counts():
    gate = MemoryGate(None)
    assert 0 < gate.room() < available_bytes() and gate.refusal(1 << 60) is not None
    before = gate.room()
    gate.taken = 1000
    assert gate.room() == pytest.approx(before - 1000, rel=0.2)
