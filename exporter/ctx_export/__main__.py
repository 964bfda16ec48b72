"""The `ctx-export` command: says which extra is missing before anything of it is imported."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from ctx_runtime.errors import MissingExtraError

_NEEDED = ("torch", "onnx", "onnx_ir", "onnxscript", "transformers", "typer", "rich", "yaml", "jinja2", "onnxruntime")


def main() -> None:
    """Run the command line; exit 2 with the pip line if the build side is not installed."""
    missing = [package for package in _NEEDED if find_spec(package) is None]
    if missing:
        error = MissingExtraError(", ".join(missing), "export", purpose="ctx-export")
        sys.stderr.write(f"error: {error}\nhint: {error.hint}\n")
        sys.exit(error.exit_code)
    from ctx_export.cli import run  # noqa: PLC0415  (its imports are what was checked above)

    run()


if __name__ == "__main__":
    main()
