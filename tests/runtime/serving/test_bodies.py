import asyncio
import gzip
import zlib

import pytest

from ctx_runtime.serving.bodies import Bodies

LIMIT = 1000


def answer(pieces, *, headers=(), end=None, app=None, limit=LIMIT):
    """The statuses and bodies that come of a body in `pieces`; `end` says when the caller leaves."""

    async def run():
        sent, messages = [], [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
        if messages:
            messages[-1]["more_body"] = False

        async def receive():
            if messages:
                return messages.pop(0)
            if end is not None:
                await end.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)

        scope = {
            "type": "http", "method": "POST", "path": "/v2", "headers": [(a.encode(), b.encode()) for a, b in headers]
        }  # fmt: skip
        await asyncio.wait_for(Bodies(app or echo, limit)(scope, receive, send), 10)
        return sent

    return asyncio.run(run())


async def echo(scope, receive, send):
    message = await receive()
    assert not message["more_body"]
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": message["body"]})


def never():
    return asyncio.Event()


def refused(sent):
    return sent[0]["status"], sent[1]["body"].decode()


@pytest.mark.parametrize(("encoding", "encode"), [(None, bytes), ("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_body_comes_whole_and_decompressed(encoding, encode):
    body = b"0123456789" * 100
    encoded = encode(body)
    headers = [] if encoding is None else [("content-encoding", encoding)]
    pieces = [encoded[at : at + 7] for at in range(0, len(encoded), 7)]
    assert answer(pieces, headers=headers, end=never())[1]["body"] == body


@pytest.mark.parametrize(
    ("pieces", "headers", "status", "message"),
    [
        ([b"x" * (LIMIT + 1)], [], 413, "larger than 1000 bytes"),
        ([b"x" * 400] * 3, [], 413, "larger than 1000 bytes"),  # chunked, without a length
        ([b""], [("content-length", "1001")], 413, "larger than 1000 bytes"),
        ([gzip.compress(b"0" * 10**7)[:500]], [("content-encoding", "gzip")], 413, "larger than 1000 bytes"),
        ([zlib.compress(b"0" * (LIMIT + 1))], [("content-encoding", "deflate")], 413, "larger than 1000 bytes"),
        ([b"no gzip"], [("content-encoding", "gzip")], 400, "the body is not gzip"),
        ([gzip.compress(b"short")[:-4]], [("content-encoding", "gzip")], 400, "ends too early or too late"),
        ([gzip.compress(b"one") * 2], [("content-encoding", "gzip")], 400, "ends too early or too late"),
        ([b"x"], [("content-encoding", "br")], 415, "expected the content encoding gzip, deflate or none, got 'br'"),
    ],
)
def test_what_is_too_large_or_not_what_it_says_is_refused(pieces, headers, status, message):
    found, body = refused(answer(pieces, headers=headers, end=never()))
    assert found == status and message in body


def test_a_bomb_is_not_decompressed_further_than_the_limit():
    import tracemalloc

    bomb = gzip.compress(b"0" * 2 * 10**7)
    tracemalloc.start()
    status, _ = refused(answer([bomb], headers=[("content-encoding", "gzip")], end=never(), limit=10**6))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert status == 413 and peak < 5e6


def test_a_body_that_never_comes_is_given_up(monkeypatch):
    monkeypatch.setattr("ctx_runtime.serving.bodies._READ_TIMEOUT_S", 0.05)

    async def run():
        sent = []

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/v2", "headers": []}
        await Bodies(echo, LIMIT)(scope, asyncio.Event().wait, send)
        return sent

    assert refused(asyncio.run(run())) == (408, '{"error":"the body did not come within 0.05 s"}')


def test_a_caller_that_leaves_before_the_end_of_the_body_gets_no_answer():
    assert answer([]) == []


def test_work_for_a_caller_that_left_is_cancelled():
    ended = []

    async def work(scope, receive, send):
        await receive()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0)  # what it has begun is cleaned up
            ended.append("cancelled")
            raise

    assert answer([b"x"], app=work) == [] and ended == ["cancelled"]


def test_what_the_application_raises_is_not_lost():
    async def fail(scope, receive, send):
        raise KeyError("defect")

    with pytest.raises(KeyError, match="defect"):
        answer([b"x"], app=fail, end=never())
