"""The run side of ctx-export: open a bundle, give it inputs of any length, get answers or text."""

from ctx_runtime.bundle import Bundle
from ctx_runtime.errors import CtxError
from ctx_runtime.generation.generation import Generation
from ctx_runtime.results import Dispatch, Explanation, Result, Stats
from ctx_runtime.runtime import Runtime
from ctx_runtime.scheduling.settings import Scheduling

__version__ = "0.1.0"

__all__ = [
    "Bundle",
    "CtxError",
    "Dispatch",
    "Explanation",
    "Generation",
    "Result",
    "Runtime",
    "Scheduling",
    "Stats",
    "__version__",
]
