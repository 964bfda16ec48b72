"""The build side of ctx-export: one PyTorch model in, a bundle with one graph per context-length bucket out."""

from ctx_runtime import __version__

__all__ = ["__version__"]
