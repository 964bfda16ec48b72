"""Request bodies: read whole within a limit, decompressed within the same limit; a caller that leaves ends its work."""

from __future__ import annotations

import asyncio
import zlib

import anyio
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ctx_runtime.serving.failures import failure

_READ_TIMEOUT_S = 60.0
_ANY_HEADER = zlib.MAX_WBITS | 32
"""Tells zlib to read gzip and deflate, whichever comes."""


class _RefusedError(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _LeftError(Exception):
    """The caller has closed the connection before the end of the body."""


class Bodies:
    """Hands requests on with their whole body, decompressed; cancels what runs for a caller that has left."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            with anyio.fail_after(_READ_TIMEOUT_S):
                body = await _read(receive, Headers(scope=scope), self._max_bytes)
        except _LeftError:
            return
        except TimeoutError:
            await _refuse(408, f"the body did not come within {_READ_TIMEOUT_S:g} s", scope, receive, send)
        except _RefusedError as refused:
            await _refuse(refused.status, str(refused), scope, receive, send)
        else:
            await self._run(body, scope, receive, send)

    async def _run(self, body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        left = asyncio.ensure_future(receive())  # nothing comes after the body but the end of the connection
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return messages.pop() if messages else await asyncio.shield(left)

        work = asyncio.ensure_future(self._app(scope, replay, send))
        try:
            await asyncio.wait({work, left}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            left.cancel()
            if not work.done():
                work.cancel()
                await asyncio.wait({work})


async def _refuse(status: int, message: str, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer before the body has been read: the connection is of no use afterwards."""
    response = failure(scope["path"], status, message, headers={"Connection": "close"})
    await response(scope, receive, send)


async def _read(receive: Receive, headers: Headers, max_bytes: int) -> bytes:
    """The body, decompressed.

    Raises:
        _RefusedError: more than `max_bytes`, as it comes or decompressed; another encoding than gzip and deflate, or
            not that one.
        _LeftError: the caller has left.
    """
    too_large = _RefusedError(413, f"the body is larger than {max_bytes} bytes")
    stated = headers.get("content-length", "")
    if stated.isdecimal() and int(stated) > max_bytes:
        raise too_large
    body, received, decoder = bytearray(), 0, _Decoder(headers.get("content-encoding", "identity"))
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _LeftError
        piece = message.get("body", b"")
        received += len(piece)
        body += decoder.decode(piece, max_bytes + 1 - len(body))
        if max(received, len(body)) > max_bytes:
            raise too_large
        if not message.get("more_body", False):
            decoder.finish()
            return bytes(body)


class _Decoder:
    """Decompresses a body piece by piece, never more than is asked for."""

    def __init__(self, encoding: str) -> None:
        if encoding not in ("identity", "gzip", "deflate"):
            raise _RefusedError(415, f"expected the content encoding gzip, deflate or none, got {encoding!r}")
        self._encoding = encoding
        self._inflater = None if encoding == "identity" else zlib.decompressobj(_ANY_HEADER)

    def decode(self, piece: bytes, most: int) -> bytes:
        """What a piece holds, cut after `most` bytes, which is at least 1."""
        if self._inflater is None:
            return piece
        try:
            return self._inflater.decompress(piece, most)
        except zlib.error as error:
            raise _RefusedError(400, f"the body is not {self._encoding}: {error}") from None

    def finish(self) -> None:
        """Raise _RefusedError unless the body ended where its encoding says."""
        if self._inflater is not None and (not self._inflater.eof or self._inflater.unused_data):
            raise _RefusedError(400, f"the body is not {self._encoding}: it ends too early or too late")
