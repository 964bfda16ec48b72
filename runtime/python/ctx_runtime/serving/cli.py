"""`ctx-runtime serve`: a bundle over HTTP."""

from __future__ import annotations

import argparse
import functools
import ipaddress
import os
import sys
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from ctx_runtime.errors import InputError, MissingExtraError, first_problem
from ctx_runtime.printing import print_json
from ctx_runtime.runtime import Runtime
from ctx_runtime.scheduling.settings import Scheduling

_KEY_VARIABLE = "CTX_RUNTIME_API_KEY"
_SCHEDULING = ("max_queue", "workers", "max_wait_ms", "token_budget", "max_padding")
_PACKAGES = ("fastapi", "starlette", "uvicorn", "prometheus_client")
AddCommand = Callable[[str, Callable[[argparse.Namespace], int], str, str], argparse.ArgumentParser]


def add_command(add: AddCommand) -> argparse.ArgumentParser:
    """Add the command; `add` takes a name, what runs it, a description and an example."""
    what = "Serve over HTTP: Open Inference Protocol V2, OpenAI's embeddings and chat, metrics."
    parser = add("serve", _serve, what, "--port 8000")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one (default 8000)")
    parser.add_argument(
        "--api-key-file", type=Path, help=f"holds the key that callers must give; or set {_KEY_VARIABLE}"
    )
    parser.add_argument("--max-body", default="64 MiB", help="of a request, decompressed too (default 64 MiB)")
    parser.add_argument("--max-requests", type=int, default=256, help="under way at once (default 256)")
    parser.add_argument(
        "--timeout", type=float, default=60.0, help="seconds that a request may wait until it runs (default 60)"
    )
    parser.add_argument("--max-queue", type=int, default=4096, help="inputs that wait to be run (default 4096)")
    parser.add_argument("--workers", type=int, help="threads that run batches; by default what the cores allow")
    parser.add_argument("--max-wait-ms", type=float, help="how long an input waits for others to run with")
    parser.add_argument("--token-budget", type=int, help="tokens of a batch, padding included")
    parser.add_argument("--max-padding", type=float, help="share of a batch that may be padding")
    parser.add_argument("--generations", type=int, default=1, help="texts that are generated at once (default 1)")
    parser.add_argument("--max-prompts", type=int, default=64, help="prompts that wait for their turn (default 64)")
    parser.add_argument("--record", type=Path, help="count the lengths of inputs in this file, for `stats --drift`")
    return parser


def _serve(options: argparse.Namespace) -> int:
    try:
        from ctx_runtime.serving.admission import Gate  # noqa: PLC0415 (its packages are optional)
        from ctx_runtime.serving.app import Limits, create_app  # noqa: PLC0415
        from ctx_runtime.serving.server import listen, serve  # noqa: PLC0415
    except ImportError as error:
        if error.name not in _PACKAGES:
            raise
        raise MissingExtraError(error.name, "serve", purpose="serving") from error
    try:
        limits = Limits(**{name: getattr(options, name) for name in Limits.model_fields})
    except ValidationError as error:
        raise InputError(f"--{first_problem(error).replace('_', '-')}") from None
    scheduling = Scheduling(**{name: getattr(options, name) for name in _SCHEDULING})
    key, gate = _key(options.api_key_file), Gate()
    opening = {"min_quality": options.min_quality, "scheduling": scheduling, "record": options.record}
    with Runtime.open(options.bundle, **opening) as runtime:
        app = create_app(runtime, gate, limits, api_key=key)
        listener = listen(options.host, options.port)
        announce = functools.partial(_announce, options, runtime, listener.getsockname()[1], keyed=key is not None)
        serve(app, runtime, gate, listener, lambda event: announce() if event == "started" else _tell(event))
    _tell(f"stopped; {gate.answered} requests were answered")
    return 0


def _announce(options: argparse.Namespace, runtime: Runtime, port: int, *, keyed: bool) -> None:
    host = f"[{options.host}]" if ":" in options.host else options.host
    url, name = f"http://{host}:{port}", runtime.bundle.manifest.name
    if options.json:
        print_json({"bundle": str(runtime.bundle.root), "model": name, "url": url})
        sys.stdout.flush()
    if not keyed and not _is_loopback(options.host):
        _tell(f"warning: everyone who reaches {url} may use it: set --api-key-file or {_KEY_VARIABLE}")
    _tell(f"serving {name} on {url}; warming up")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _key(path: Path | None) -> str | None:
    """The key in a file, or else in the environment; None if there is neither."""
    if path is None:
        return os.environ.get(_KEY_VARIABLE) or None
    try:
        key = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} can't be read: {error}") from None
    if not key:
        raise InputError(f"{path} holds no key", hint="write one line into it")
    return key


def _tell(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
