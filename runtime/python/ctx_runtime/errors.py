"""Every error of ctx-export and its runtime.

::

    CtxError                        one line: what is wrong; `hint`: what to do
    ├── InputError                  an input's name, dtype, shape or value
    │   └── TooLongError            longer than the bundle takes, policy `error`
    ├── BundleError                 a folder that is not a sound bundle; `code` says which rule of FORMAT.md
    ├── ResourceProfileError        a profile file; names file, key and line
    ├── BackendError                a backend that can't open or run a graph or an engine
    ├── MemoryBudgetError           more memory than the resource profile allows
    ├── TimeBudgetError             more time than the resource profile allows
    ├── QualityError                no sub-network that is known to be good enough
    ├── OverloadError               as many requests wait as may
    ├── DeadlineError               a request that did not begin in time
    ├── MissingExtraError           an optional dependency; the hint is the pip line
    └── BuildError                  the build side
        ├── SourceError             a model that can't be loaded
        ├── ExportError             torch.export or the ONNX conversion refuses, or specialised a dynamic axis
        ├── EngineError             TensorRT refuses a graph, a target or a precision
        └── ParityError             outputs out of tolerance (exit 1, all others exit 2)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from pydantic import ValidationError

_LONGEST_MESSAGE = 500

BundleRefusal = Literal[
    "not-a-bundle",  # no folder, or no manifest.json in it
    "manifest-syntax",  # not UTF-8, not JSON, duplicate keys, too large
    "manifest-schema",  # JSON, but not a manifest
    "format-unsupported",  # a newer `format` than this reader knows
    "path-unsafe",  # absolute, leaves the bundle, NUL, backslash, empty or dot component
    "link",  # symbolic link, hard link, device, socket
    "file-missing",  # listed, not there
    "file-unlisted",  # there, not listed
    "file-size",  # size differs from the manifest
    "file-hash",  # sha256 differs from the manifest
    "buckets",  # buckets leave a gap, overlap or are out of order
    "reference",  # a bucket, engine or report names a file that is not listed
    "graph-syntax",  # not an ONNX file of a supported form
    "graph-inputs",  # graph inputs or outputs differ from the manifest
    "graph-size",  # a graph or constant larger than the limits
    "weight-location",  # external data anywhere but the bundle's weights.bin
    "weight-range",  # unaligned, short, past the end, or negative
    "weight-overlap",  # ranges that overlap without one holding the other
    "golden-syntax",  # parity vectors that are not a plain npz
]


class CtxError(Exception):
    """Base of all errors: `str(error)` is one line that says what is wrong.

    Attributes:
        hint: one line that says what to do, or None.
        exit_code: the exit status of a command that ends with this error.
    """

    exit_code = 2

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint

    def __reduce__(self) -> tuple[Callable[..., CtxError], tuple[object, ...]]:
        """Between processes an error keeps its kind and its attributes, whatever its `__init__` takes."""
        return _restored, (type(self), str(self), vars(self))


def _restored(kind: type[CtxError], message: str, attributes: dict[str, object]) -> CtxError:
    error = kind.__new__(kind, message)
    vars(error).update(attributes)
    return error


class InputError(CtxError):
    """An input's name, dtype, shape or value is not what the bundle takes."""


class TooLongError(InputError):
    """An input is longer than the largest bucket and the overflow policy is `error`."""


class BundleError(CtxError):
    """A folder that is not a sound bundle; a message that quotes too much of it is cut.

    Attributes:
        code: the rule of FORMAT.md that it breaks; the same word in Python and C++.
    """

    def __init__(self, code: BundleRefusal, message: str, *, hint: str | None = None) -> None:
        shown = message if len(message) <= _LONGEST_MESSAGE else f"{message[:_LONGEST_MESSAGE]}..."
        super().__init__(shown, hint=hint)
        self.code: BundleRefusal = code


class ResourceProfileError(CtxError):
    """A resource profile with an unknown key or an impossible value."""


class BackendError(CtxError):
    """A backend can't open or run a graph or an engine."""


class MemoryBudgetError(CtxError):
    """An input needs more memory than the resource profile allows."""


class TimeBudgetError(CtxError):
    """An input needs more time than the resource profile allows."""


class QualityError(CtxError):
    """No bucket is known to answer an input of this length well enough."""


class OverloadError(CtxError):
    """As many requests wait as may.

    Attributes:
        retry_after_s: seconds after which those that wait now will have run, an estimate.
    """

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message, hint=f"try again in {retry_after_s:.1f} s, or raise max_queue")
        self.retry_after_s = retry_after_s


class DeadlineError(CtxError):
    """A request did not begin before its deadline."""


class MissingExtraError(CtxError):
    """An optional dependency is absent."""

    def __init__(self, package: str, extra: str, *, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package {package!r}", hint=f"pip install 'ctx-export[{extra}]'")


class BuildError(CtxError):
    """The build side can't go on."""


class SourceError(BuildError):
    """A model that can't be loaded."""


class ExportError(BuildError):
    """torch.export or the ONNX conversion refuses the model, or specialised a dynamic axis."""


class EngineError(BuildError):
    """TensorRT refuses a graph, a target or a precision."""


class ParityError(BuildError):
    """Outputs differ from PyTorch's by more than the tolerance."""

    exit_code = 1


def first_problem(error: ValidationError) -> str:
    """What pydantic found wrong first, and where: `buckets.1.max_length: Input should be …`."""
    problem = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, problem["loc"]))
    return f"{where}: {problem['msg']}" if where else problem["msg"]
