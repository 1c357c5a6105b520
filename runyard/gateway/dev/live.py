"""Keeps a page up to date: its live part is rendered again and again, and sent where it differs, as server-sent events.

A page asked for as `text/event-stream` is such a stream. It needs no memory of what the browser has seen: what comes is how things are.
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from runyard.gateway.http.endpoint import event_stream
from runyard.gateway.http.errors import HttpError, as_http_error

# A stream ends after this; the browser comes back, and its key is looked at again.
_LONGEST_SECONDS = 300.0
_QUIET_SECONDS = 15.0
# A look that takes long is taken less often: it may use this part of the time. So is one at what has not changed for a while.
_SHARE = 0.2
_LONGEST_PAUSE = 5
_PATIENCE_SECONDS = 10.0
_MAX_STREAMS = 100
_open = 0


def is_stream_request(request: Request) -> bool:
    """Whether a page is asked for as a stream."""
    return "text/event-stream" in request.headers.get("accept", "")


def stream(
    render: Callable[[], str], every: float, may_go_on: Callable[[], Awaitable[bool]]
) -> Response:
    """The stream of what `render` gives, looked at every so many seconds as long as it may go on; raises `HttpError` when there are too many."""
    if _open >= _MAX_STREAMS:
        raise HttpError(
            503,
            "too_many",
            f"{_MAX_STREAMS} pages are kept up to date already: close some",
            headers={"Retry-After": "10"},
        )
    return event_stream(_parts(render, every, may_go_on))


async def _parts(
    render: Callable[[], str], every: float, may_go_on: Callable[[], Awaitable[bool]]
) -> AsyncIterator[bytes]:
    global _open
    _open += 1
    try:
        yield b"retry: 1500\n\n"
        sent, said_at, until = b"", time.monotonic(), time.monotonic() + _LONGEST_SECONDS
        changed_at = said_at
        while (began := time.monotonic()) < until and await may_go_on():
            try:
                html = await run_in_threadpool(render)
            except Exception as error:
                as_http_error(
                    error
                )  # it is in the log where nobody foresaw it; the browser asks again
                return
            digest = hashlib.blake2b(html.encode(), digest_size=16).digest()
            if digest != sent:
                sent, said_at, changed_at = digest, began, began
                yield _message(html)
            elif began - said_at > _QUIET_SECONDS:
                said_at = began
                yield b": still here\n\n"
            unchanged = every * min(1 + (began - changed_at) / _PATIENCE_SECONDS, _LONGEST_PAUSE)
            await asyncio.sleep(max(unchanged, (time.monotonic() - began) * (1 / _SHARE - 1)))
    finally:
        _open -= 1


def _message(html: str) -> bytes:
    return b"".join(b"data: %s\n" % line for line in html.encode().splitlines()) + b"\n"
