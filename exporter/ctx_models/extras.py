"""Optional packages, loaded by the function that needs one."""

from __future__ import annotations

import importlib
from typing import Any

from ctx_models.errors import ModelError


def load_extra(module: str, *, purpose: str) -> Any:  # noqa: ANN401 (a module without types)
    """Import a module of the extra `train`.

    Args:
        module: its dotted name.
        purpose: what needs it, for the message.

    Raises:
        ModelError: it is not installed; the hint is the pip line.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ModelError(f"{purpose} needs the package {package!r}", hint="pip install 'ctx-export[train]'") from error
