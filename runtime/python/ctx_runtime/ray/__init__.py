"""A bundle on many machines with Ray: `serving` answers requests, `datasets` runs a corpus. Needs the extra `ray`."""

from ctx_runtime.errors import MissingExtraError

try:
    import ray as _ray  # noqa: F401 (the modules of this package use it)
except ImportError as _error:
    raise MissingExtraError("ray", "ray", purpose="a bundle on many machines") from _error
