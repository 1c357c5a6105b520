"""Keeps a page up to date: its live part is rendered repeatedly, and sent when it has changed.

A page requested as `text/event-stream` is such a stream of server-sent events. Each message is a
whole part of the page, so the server need not remember what the browser has seen.
"""

import asyncio
import hashlib
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from runyard.gateway.http.endpoint import event_stream
from runyard.gateway.http.errors import HttpError, as_http_error

# A stream ends after this; the browser reconnects, and its key is checked again.
_MAX_SECONDS = 300.0
# Those of the format; `splitlines` would end a line at characters of the page's text, too.
_LINE_END = re.compile(r"\r\n|\r|\n")
_KEEPALIVE_SECONDS = 15.0
# Slow rendering is repeated less often, so as to use at most this share of the time.
_MAX_SHARE = 0.2
# The interval of a part that does not change grows by its initial length every 10 s, up to 5 times
# that length.
_SLOWDOWN_SECONDS = 10.0
_MAX_SLOWDOWN = 5
_MAX_STREAMS = 100
# Parts of a page by the names of their events; `message` is the browser's name for the main one.
Parts = Mapping[str, str]
_open = 0


def is_stream_request(request: Request) -> bool:
    """Whether a page is requested as a stream."""
    return "text/event-stream" in request.headers.get("accept", "")


def stream(
    render: Callable[[], Parts], interval: float, is_valid: Callable[[], Awaitable[bool]]
) -> Response:
    """A stream of what `render` returns, called every `interval` seconds while `is_valid`.

    Each part is sent when it has changed, as an event of its name.

    Raises `HttpError` if there are too many streams.
    """
    if _open >= _MAX_STREAMS:
        raise HttpError(
            503,
            "too_many",
            f"{_MAX_STREAMS} live pages are open already: close some",
            headers={"Retry-After": "10"},
        )
    return event_stream(_messages(render, interval, is_valid))


async def _messages(
    render: Callable[[], Parts], interval: float, is_valid: Callable[[], Awaitable[bool]]
) -> AsyncIterator[bytes]:
    global _open
    _open += 1
    try:
        yield b"retry: 1500\n\n"
        sent: dict[str, bytes] = {}
        sent_at = changed_at = time.monotonic()
        until = sent_at + _MAX_SECONDS
        while (began := time.monotonic()) < until and await is_valid():
            try:
                parts = await run_in_threadpool(render)
            except Exception as error:
                as_http_error(error)  # logs an unexpected one; the browser reconnects
                return
            changed = False
            for name, html in parts.items():
                digest = hashlib.blake2b(html.encode(), digest_size=16).digest()
                if digest != sent.get(name):
                    sent[name], changed = digest, True
                    yield _message(name, html)
            if changed:
                sent_at = changed_at = began
            elif began - sent_at > _KEEPALIVE_SECONDS:
                sent_at = began
                yield b": still here\n\n"
            await asyncio.sleep(_pause(interval, began, changed_at))
    finally:
        _open -= 1


def _pause(interval: float, began: float, changed_at: float) -> float:
    slowdown = min(1 + (began - changed_at) / _SLOWDOWN_SECONDS, _MAX_SLOWDOWN)
    duration = time.monotonic() - began
    return max(interval * slowdown, duration * (1 / _MAX_SHARE - 1))


def _message(name: str, html: str) -> bytes:
    lines = [f"event: {name}", *(f"data: {line}" for line in _LINE_END.split(html))]
    return ("\n".join(lines) + "\n\n").encode()
