"""Where a device keeps what it computed for itself."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """`$CTX_RUNTIME_CACHE`, else `$XDG_CACHE_HOME/ctx-runtime`, else `~/.cache/ctx-runtime`."""
    if configured := os.environ.get("CTX_RUNTIME_CACHE"):
        return Path(configured)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ctx-runtime"
