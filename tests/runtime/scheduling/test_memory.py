import pytest

from ctx_runtime.scheduling import memory
from ctx_runtime.scheduling.memory import MemoryGate


def test_room_is_what_running_batches_leave():
    gate = MemoryGate(100)
    assert gate.room() == 100 and gate.refusal(100) is None
    gate.taken = 70
    assert gate.room() == 30 and gate.refusal(100) is None
    assert "101 bytes" in str(gate.refusal(101))


@pytest.mark.parametrize(("available", "room"), [(1000, 950), (None, float("inf"))])
def test_without_a_limit_the_machine_counts_but_for_a_reserve(monkeypatch, available, room):
    monkeypatch.setattr(memory, "available_bytes", lambda: available)
    gate = MemoryGate(None)
    assert gate.room() == room and gate.refusal(950) is None
    assert (gate.refusal(951) is None) == (available is None)
    gate.taken = 100
    assert gate.room() == room - 100
