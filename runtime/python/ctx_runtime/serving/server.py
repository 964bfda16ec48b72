"""The process around the application: it listens, warms up, and ends once what it accepted is answered."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from types import FrameType
from typing import Literal

import uvicorn
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from ctx_runtime.errors import InputError
from ctx_runtime.runtime import Runtime
from ctx_runtime.serving.admission import Gate

_BACKLOG = 2048
_KEEP_ALIVE_S = 75
Tell = Callable[[Literal["started", "ready"]], None]


def listen(host: str, port: int) -> socket.socket:
    """A socket that callers can connect to; port 0 takes a free one.

    Raises:
        InputError: the address is taken, unknown or not allowed.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError) as error:
        raise InputError(
            f"can't listen on {host} port {port}: {error}", hint="choose another --host or --port"
        ) from None


def serve(app: FastAPI, runtime: Runtime, gate: Gate, listener: socket.socket, tell: Tell) -> None:
    """Serve until SIGTERM or Ctrl-C; what was accepted before is answered, a second signal ends it at once.

    Args:
        app: the application.
        runtime: what it serves; the graphs of its buckets are opened meanwhile.
        gate: told what happens.
        listener: a listening socket, which is closed in the end.
        tell: called once the server answers, and once the graphs are open as far as the session budget goes.

    Raises:
        BackendError: no backend can serve a bucket.
    """
    config = uvicorn.Config(
        app,
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
    )
    _Server(config, runtime, gate, tell).run(sockets=[listener])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, runtime: Runtime, gate: Gate, tell: Tell) -> None:
        super().__init__(config)
        self._runtime, self._gate, self._tell = runtime, gate, tell

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._tell("started")
        self._warming = asyncio.ensure_future(self._warm_up())

    async def on_tick(self, counter: int) -> bool:
        if self._warming.done():
            self._warming.result()
        drained = self._gate.draining and self._gate.running == 0
        return await super().on_tick(counter) or drained

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._gate.draining:
            self.force_exit = True
            super().handle_exit(sig, frame)
        self._gate.draining = True

    async def _warm_up(self) -> None:
        await run_in_threadpool(self._runtime.warm_up)
        self._gate.warm = True
        self._tell("ready")
