"""What memory the system has left, so that work is refused before it is taken and not by the kernel after."""

from __future__ import annotations

from pathlib import Path


def available_bytes(root: Path = Path("/")) -> int | None:
    """What this process can take without swapping; None where the system does not say.

    On Linux the smaller of what the kernel reckons it can give (`MemAvailable`), and of what the limit of the process's
    control group leaves (version 2), such as a container's.

    Args:
        root: of the file system.
    """
    known = []
    meminfo = _fields(root / "proc/meminfo")
    if "MemAvailable:" in meminfo:
        known.append(1024 * meminfo["MemAvailable:"])
    group = root / "sys/fs/cgroup"
    limit, used = (_number(group / name) for name in ("memory.max", "memory.current"))
    if limit is not None and used is not None:
        reclaimable = _fields(group / "memory.stat").get("inactive_file", 0)
        known.append(max(limit - used + reclaimable, 0))
    return min(known, default=None)


def _fields(path: Path) -> dict[str, int]:
    """The lines `name number …` of a file; nothing where it can't be read."""
    try:
        lines = [line.split() for line in path.read_text(encoding="ascii").splitlines()]
    except OSError:
        return {}
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdigit()}


def _number(path: Path) -> int | None:
    """The number that a file holds; None where it holds another word, such as `max`, or is not there."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
