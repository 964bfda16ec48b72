"""Who is let in: whether the server is ready, what is under way, and whether the caller has the key."""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from ctx_runtime.serving.failures import failure

_PROBES = ("/v2/health/live", "/v2/health/ready")


@dataclass
class Gate:
    """Where the server is between its start and its end; used in the event loop.

    Attributes:
        warm: the graphs of the buckets are open, as far as the session budget goes.
        draining: nothing more is accepted.
        running: requests that were accepted and are not answered yet.
        answered: requests that were accepted and are answered.
    """

    warm: bool = False
    draining: bool = False
    running: int = 0
    answered: int = 0

    @property
    def ready(self) -> bool:
        """Whether requests are accepted and find their graphs open."""
        return self.warm and not self.draining


class Admission:
    """Counts what runs; refuses work beyond `most` requests at once, and all of it once the server drains.

    What only looks at the server, with another method than POST, is let through.
    """

    def __init__(self, app: ASGIApp, gate: Gate, most: int) -> None:
        self._app, self._gate, self._most = app, gate, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
        elif self._gate.draining or self._gate.running >= self._most:
            why = "the server shuts down" if self._gate.draining else f"{self._most} requests are under way"
            headers = {"Retry-After": "1", "Connection": "close"}
            await failure(scope["path"], 503, why, headers=headers)(scope, receive, send)
        else:
            self._gate.running += 1
            try:
                await self._app(scope, receive, send)
            finally:
                self._gate.running -= 1
                self._gate.answered += 1


class Keyed:
    """Refuses requests without the key, `Authorization: Bearer KEY`; probes of health need none."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app, self._expected = app, f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"] in _PROBES or self._allows(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        headers = {"WWW-Authenticate": "Bearer"}
        response = failure(scope["path"], 401, "the API key is missing or wrong", headers=headers)
        await response(scope, receive, send)

    def _allows(self, headers: Headers) -> bool:
        given = headers.get("authorization", "").encode("latin-1")
        return hmac.compare_digest(given, self._expected)
