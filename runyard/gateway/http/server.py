"""The web server: uvicorn, with limits on what a client may use before anything is known of it.

uvicorn limits the time between two requests of a connection. It limits neither the time nor the
bytes that the headers of a request take, nor how long a client leaves a response unread, and its
limit on connections counts idle ones. If a client offers to upgrade to another protocol, uvicorn
loses the body of the request and parses it as the next request. (As of uvicorn 0.54.)
"""

import asyncio
import json
import math
import socket
import sys
from contextlib import suppress
from http import HTTPStatus
from typing import Any, cast

import httptools
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from runyard.events import new_ulid
from runyard.gateway.http import body_memory
from runyard.gateway.http.connection_limits import (
    ConnectionLimiter,
    client_address,
    max_connections,
)
from runyard.gateway.http.errors import RESPONSE_HEADERS, HttpError
from runyard.gateway.http.stopping import stop
from runyard.gateway.http.throttled_log import ThrottledWarning
from runyard.gateway.http.websockets import GuardedSocket
from runyard.settings import settings

_KEEP_ALIVE_SECONDS = 30
# The code with which a process ends that cannot serve: its port is in use, for example.
_NOT_STARTED = 3
# Of the request line with its headers. Also of everything around the bytes of a body: trailers, and
# the sizes and extensions of chunks.
_MAX_HEAD_BYTES = 64 * 1024
_MAX_TARGET_BYTES = 32 * 1024
_MAX_HEADERS = 200
# What a header uses in memory besides its bytes.
_HEADER_OVERHEAD = 150
# A chunk of one byte has five bytes around it.
_CHUNK_OVERHEAD = 8
# Data is parsed in pieces of this size, so that a head that is too long is noticed soon.
_PIECE = 64 * 1024
# Requests that a connection may pipeline; it is closed after the last of them.
_MAX_PIPELINED = 32
# Incomplete heads, and bodies that no handler has read yet, on all connections.
_MAX_BUFFERED_BYTES = 64 * 1024 * 1024
# How long a rejected client may read its response, and how many may do so at a time; the
# connections of any others are closed at once.
_LINGER_SECONDS = 1.0
_MAX_LINGERING = 100
# WebSockets that may be open: those of subscribers, and one of the Dagster UI in every tab.
_MAX_SOCKETS = 500
_MAX_MESSAGE_BYTES = 2 * 1024 * 1024
_HEADERS_TOO_LARGE = HttpError(
    431,
    "headers_too_large",
    f"a request may have {_MAX_HEADERS} headers of {_MAX_HEAD_BYTES // 1024} KiB in all,"
    " including trailers: send fewer",
)
_TARGET_TOO_LONG = HttpError(
    414,
    "target_too_long",
    f"the path and query of a request may have {_MAX_TARGET_BYTES // 1024} KiB:"
    " ask for less at a time",
)
_INVALID_REQUEST = HttpError(
    400,
    "invalid_request",
    "this is not a valid HTTP/1.1 request: check the client, or the proxy in front of it",
)
_TOO_MANY_CONNECTIONS = HttpError(
    503,
    "busy",
    "the limit of connections is reached, and all have a request in progress; nothing was done."
    " Try again",
    headers={"Retry-After": "1"},
)
_NO_CONNECT = HttpError(
    405, "method_not_allowed", "CONNECT is not supported, for this is not a proxy: send a path"
)
_NO_WEBSOCKET = HttpError(
    400,
    "invalid_request",
    "open a WebSocket with a GET without a body, on a connection with no other request in progress",
)
_HANDSHAKE_TOO_LARGE = HttpError(
    431,
    "headers_too_large",
    "the headers of the WebSocket handshake are too many or too long: send fewer",
)
_TOO_MANY_SOCKETS = HttpError(
    503,
    "busy",
    f"the limit of {_MAX_SOCKETS} open WebSockets is reached: close a tab, or try again",
    headers={"Retry-After": "10"},
)
_refused = ThrottledWarning(
    "%d connections were refused because all allowed ones have requests in progress"
    " (the latest from %s)"
)


class _SharedState:
    """What the connections of this process share."""

    def __init__(self) -> None:
        self.connections = ConnectionLimiter(
            max_connections(settings()), settings().connections_per_address
        )
        self.buffered = 0
        self.lingering = 0
        self.sockets = 0


class _Rejected(Exception):
    """Aborts the parsing of what a client sends."""


class GuardedProtocol(HttpToolsProtocol):
    """A connection within limits: of time, of bytes, of connections."""

    shared: _SharedState
    address = ""
    _headers_timer: asyncio.TimerHandle | None = None
    _reading_timer: asyncio.TimerHandle | None = None
    # The request being parsed: whether its head is incomplete, whether any of it has arrived, and
    # the bytes of its head, of its body, and around the body.
    _in_head = True
    _begun = False
    _head = 0
    _body = 0
    _around = 0
    # The bytes counted for this connection in `shared.buffered`; those of them outside of the body
    # being parsed (heads, and pipelined bodies); and those without the head being parsed either.
    _buffered = 0
    _outside_body = 0
    _before_head = 0
    _running: Any = None
    _error = _INVALID_REQUEST
    _rejected = False

    def connection_made(self, transport: Any) -> None:
        """Admit the connection, and expect its first headers in time."""
        super().connection_made(transport)
        self.address = client_address(self.client[0]) if self.client else ""
        if self.shared.connections.admit(self):
            self._start_headers_timer()
        else:
            _refused.warn(self.address)
            self._reject(_TOO_MANY_CONNECTIONS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timers, and free everything that the connection holds."""
        self._stop_headers_timer()
        if self._reading_timer is not None:
            self._reading_timer.cancel()
        self._count_buffered(0)
        self.shared.connections.remove(self)
        if self._running is not None and self._running is not self.cycle:
            # uvicorn notifies the last request only.
            self._running.disconnected = True
            self._running.message_event.set()
        self.pipeline.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse the data, piece by piece, while the client keeps to its limits."""
        if self._headers_timer is None and self.cycle is not None and self.cycle.response_complete:
            self._start_headers_timer()
        if len(data) <= _PIECE:
            self._feed(data)
            return
        for start in range(0, len(data), _PIECE):
            self._feed(data[start : start + _PIECE])

    def _feed(self, piece: bytes) -> None:
        if self._rejected:
            return
        if self._in_head:
            self._head += len(piece)
        else:
            self._around += len(piece)
        self._parse(piece)
        if self._rejected:
            return
        if self._in_head:
            if self._head > _MAX_HEAD_BYTES:
                self._reject(_HEADERS_TOO_LARGE)
            elif self._begun and not self._count_buffered(
                self._outside_body + self._head + len(piece)
            ):
                self._reject(body_memory.memory_full())
        elif self._around > _MAX_HEAD_BYTES + _CHUNK_OVERHEAD * self._body:
            self._reject(_HEADERS_TOO_LARGE)

    def _parse(self, piece: bytes) -> None:
        """Feed the parser, which calls the `on_...` methods.

        If the client offers an upgrade, the parser ends the request after its head, whatever body
        is announced, for what follows could be of the other protocol. An upgrade that is not
        accepted must be ignored (RFC 9110, 7.8): so a new parser gets the same head without the
        header, and then what follows.
        """
        self._unset_keepalive_if_required()
        while True:
            try:
                self.parser.feed_data(piece)
            except httptools.HttpParserError:
                self._reject(self._error)
            except httptools.HttpParserUpgrade as upgrade:
                if not self._should_upgrade():
                    piece = self._head_without(b"upgrade") + piece[upgrade.args[0] :]
                    self.parser = httptools.HttpRequestParser(self)
                    self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
                    continue
                self.handle_websocket_upgrade()
            return

    def _head_without(self, name: bytes | None) -> bytes:
        """The current head as it was sent, except for the headers of this name."""
        method, version = self.parser.get_method(), self.parser.get_http_version()
        lines = [b"%s %s HTTP/%s" % (method, self.url, version.encode())]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != name]
        return b"\r\n".join(lines) + b"\r\n\r\n"

    @property
    def _is_parsed_again(self) -> bool:
        """Whether the current head offers an upgrade that is not accepted."""
        return self.parser.should_upgrade() and not self._should_upgrade()

    def _should_upgrade(self) -> bool:
        """Whether to upgrade to a WebSocket: only from a GET (RFC 6455, 4.1) in HTTP/1.1.

        Otherwise the offer is ignored (RFC 9110, 7.8).
        """
        return (
            self.parser.get_method() == b"GET"
            and self.parser.get_http_version() == "1.1"
            and super()._should_upgrade()
        )

    def on_message_begin(self) -> None:
        """Start a request, or its head that is parsed again."""
        super().on_message_begin()
        if not self._begun:
            self._before_head = self._buffered if self._in_progress else 0
        self._begun = True
        self._outside_body = self._before_head

    def on_url(self, url: bytes) -> None:
        """Collect a part of the request target."""
        super().on_url(url)
        if len(self.url) > _MAX_TARGET_BYTES:
            self._abort(_TARGET_TOO_LONG)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a header; trailers are dropped."""
        if not self._in_head:
            return
        super().on_header(name, value)
        self._outside_body += len(name) + len(value) + _HEADER_OVERHEAD
        if len(self.headers) > _MAX_HEADERS:
            self._abort(_HEADERS_TOO_LARGE)

    def on_headers_complete(self) -> None:
        """Queue the request, which is in progress from now on."""
        if self.parser.get_method() == b"CONNECT":
            self._abort(_NO_CONNECT)
        if self._is_parsed_again:
            return
        if self.parser.should_upgrade():
            self._check_websocket()
        self._stop_headers_timer()
        if len(self.pipeline) >= _MAX_PIPELINED:
            self._abort(_INVALID_REQUEST)
        self._outside_body += len(self.url)
        if not self._count_buffered(self._outside_body):
            self._abort(body_memory.memory_full())
        super().on_headers_complete()
        self._in_head = self._begun = False
        self._head = self._body = self._around = 0
        self.shared.connections.mark_active(self)

    def on_body(self, body: bytes) -> None:
        """Buffer a part of the body until the handler reads it."""
        self._body += len(body)
        self._around -= len(body)
        super().on_body(body)
        if not self._count_buffered(self._outside_body + len(self.cycle.body)):
            self._abort(body_memory.memory_full())

    def on_message_complete(self) -> None:
        """End the request; the next byte starts another."""
        if self._is_parsed_again:
            return
        self._in_head = True
        self._head = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Note that the response is written, though the client may not have read it yet."""
        self._running.body.clear()
        super().on_response_complete()
        if not self._in_progress:
            self._count_buffered(0)
            self.shared.connections.mark_idle(self)
            if not self._begun:
                # uvicorn would keep this request in memory until the next one.
                self._running.scope = {}
                self.scope = self._running.scope
                self.headers = []
            elif self._headers_timer is None:
                self._start_headers_timer()
        if self.writing:
            self._start_reading_timer()

    def pause_writing(self) -> None:
        """Expect a client that falls behind to go on reading."""
        super().pause_writing()
        self._start_reading_timer()

    def _check_websocket(self) -> None:
        """Reject a handshake that is invalid, or one WebSocket too many."""
        has_body = any(
            name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0 \t"))
            for name, value in self.headers
        )
        if has_body or self._in_progress:
            self._abort(_NO_WEBSOCKET)
        if not self.url.isascii():
            self._abort(_INVALID_REQUEST)
        if self.shared.sockets >= _MAX_SOCKETS:
            self._abort(_TOO_MANY_SOCKETS)

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection over to a WebSocket, which keeps its place."""
        socket = cast("type[GuardedSocket]", self.ws_protocol_class)(
            config=self.config, server_state=self.server_state, app_state=self.app_state
        )
        socket.connection_made(self.transport)
        self.transport.set_protocol(socket)
        socket.data_received(self._head_without(None))
        if not socket.handshake_initiated:
            self.transport.set_protocol(self)
            self.connections.discard(socket)
            self._reject(_HANDSHAKE_TOO_LARGE)
            return
        self._rejected = True
        self._count_buffered(0)
        if self._reading_timer is not None:
            self._reading_timer.cancel()
        self.connections.discard(self)
        self.shared.sockets += 1
        socket.watch(settings().client_timeout, self._socket_closed)

    def _socket_closed(self) -> None:
        self.shared.sockets -= 1
        self.shared.connections.remove(self)

    @property
    def writing(self) -> bool:
        """See `Connection`."""
        return self.transport.get_write_buffer_size() > 0

    def close(self) -> None:
        """See `Connection`."""
        self.transport.close()

    @property
    def _in_progress(self) -> bool:
        """Whether a request is being handled, or is queued."""
        return bool(self.pipeline) or (
            self._running is not None and not self._running.response_complete
        )

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _count_buffered(self, size: int) -> bool:
        """Set the bytes buffered for this connection; return whether all together may have them."""
        growth = size - self._buffered
        self.shared.buffered += growth
        self._buffered = size
        return growth <= 0 or self.shared.buffered <= _MAX_BUFFERED_BYTES

    def _abort(self, error: HttpError) -> None:
        """Abort the parsing; `_reject` sends the error."""
        self._error = error
        raise _Rejected(error.code)

    def _reject(self, error: HttpError) -> None:
        """Stop reading, finish earlier requests, send the error if possible, and close."""
        self._rejected = True
        self._stop_headers_timer()
        if self.pipeline and self.cycle.more_body:
            self.pipeline.popleft()  # it will never be complete
        if self.transport.is_closing():
            return
        if self._in_progress:
            last = self.pipeline[0][0] if self.pipeline else self._running
            if not (last.more_body and not last.response_started):
                last.keep_alive = False
                return
            last.disconnected = True
            last.message_event.set()
        elif not self._in_head:
            self.transport.close()  # the error is in the body of a request that has its response
            return
        if self.shared.lingering >= _MAX_LINGERING:
            self.transport.abort()
            return
        self.transport.write(self._encode(error))
        # Closing with unread data resets the connection, and the response could be lost.
        self.transport.write_eof()
        self.shared.lingering += 1
        self.loop.call_later(_LINGER_SECONDS, self._end_lingering)

    def _end_lingering(self) -> None:
        self.shared.lingering -= 1
        self.transport.abort()

    def _encode(self, error: HttpError) -> bytes:
        request_id = new_ulid()
        body = json.dumps(
            {
                "status": error.status,
                "code": error.code,
                "error": str(error),
                "request_id": request_id,
            }
        ).encode()
        headers = {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Connection": "close",
            "X-Request-Id": request_id,
            **RESPONSE_HEADERS,
            **error.headers,
        }
        lines = [
            f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}",
            *[f"{name}: {value}" for name, value in headers.items()],
        ]
        dated = b"".join(b"%s: %s\r\n" % header for header in self.server_state.default_headers)
        return "\r\n".join(lines).encode() + b"\r\n" + dated + b"\r\n" + body

    def _start_headers_timer(self) -> None:
        self._headers_timer = self.loop.call_later(settings().client_timeout, self.transport.close)

    def _stop_headers_timer(self) -> None:
        if self._headers_timer is not None:
            self._headers_timer.cancel()
            self._headers_timer = None

    def _start_reading_timer(self) -> None:
        """Close the connection if its client reads nothing for a while."""
        if self._reading_timer is None:
            self._reading_timer = self.loop.call_later(
                settings().client_timeout,
                self._check_reading,
                self.transport.get_write_buffer_size(),
            )

    def _check_reading(self, before: int) -> None:
        self._reading_timer = None
        unread = self.transport.get_write_buffer_size()
        if unread and unread == before:
            self.transport.abort()
        elif unread:
            self._start_reading_timer()


class _ReleaseBody:
    """Releases the memory of a request's body when the request is done."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        try:
            await self._app(scope, receive, send)
        finally:
            body_memory.release(scope.get("state", {}))


class _Server(uvicorn.Server):
    """Closes its port and idle connections when it is told to stop, and finishes open requests."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop in time, though a client waits for something."""
        stop.set()
        await super().shutdown(sockets)


def serve(app: ASGIApp) -> None:
    """Serve until stopped; requests in progress then have some time to finish.

    uvicorn's access log is off, for paths contain event keys. So are its warnings, for clients can
    cause as many as they like.
    """
    GuardedProtocol.shared = _SharedState()
    config = uvicorn.Config(
        _ReleaseBody(app),
        host=settings().host,
        port=settings().port,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        http=GuardedProtocol,
        ws=GuardedSocket,
        ws_max_size=_MAX_MESSAGE_BYTES,
        timeout_graceful_shutdown=math.ceil(settings().drain_timeout),
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
    )
    server = _Server(config)
    with suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        sys.exit(_NOT_STARTED)
