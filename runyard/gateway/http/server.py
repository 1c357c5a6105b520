"""The web server: uvicorn, with limits on what a client may take before anything is known of it.

uvicorn limits the time between two requests of a connection, but neither the time nor the bytes that the headers of one may take, nor how long a client
may leave its answer unread; and its limit on connections counts those that do nothing. Where a client would rather speak another protocol, it loses
the body of the request, and reads it as the next one. Read in uvicorn 0.54.
"""

import asyncio
import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

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
from runyard.gateway.http.errors import ANSWER_HEADERS, HttpError
from runyard.gateway.http.throttled_log import ThrottledWarning
from runyard.settings import settings

if TYPE_CHECKING:
    from runyard.gateway.http.websockets import GuardedSocket

_KEEP_ALIVE_SECONDS = 30
# Of a request line with its headers; also of what stands around the bytes of a body: trailers, and the sizes and extensions of its chunks.
_MAX_HEAD_BYTES = 64 * 1024
_MAX_TARGET_BYTES = 32 * 1024
_MAX_HEADERS = 200
# What a header takes in memory beside its bytes.
_A_HEADER = 150
# A chunk of one byte has five around it.
_AROUND_A_BYTE = 8
# What is read at once is taken in pieces, so that a head is not long before it is too long.
_PIECE = 64 * 1024
# Requests that one connection may send ahead; it is closed behind the last of them.
_MAX_AHEAD = 32
# Heads that are not whole and bodies that nobody has asked for yet, on all connections.
_MAX_UNREAD_BYTES = 64 * 1024 * 1024
# A refused client may read its answer for so long; more of those at a time are just closed.
_LINGER_SECONDS = 1.0
_MAX_LINGERING = 100
_HEADERS_TOO_LARGE = HttpError(
    431,
    "headers_too_large",
    f"a request may have {_MAX_HEADERS} headers of {_MAX_HEAD_BYTES // 1024} KiB in all, trailers included: send fewer",
)
_TARGET_TOO_LONG = HttpError(
    414,
    "target_too_long",
    f"the path and the query of a request may have {_MAX_TARGET_BYTES // 1024} KiB: ask for less at a time",
)
_NOT_HTTP = HttpError(
    400,
    "invalid_request",
    "this is no HTTP/1.1 request that can be read: check the client, or the proxy in between",
)
_FULL = HttpError(
    503,
    "busy",
    "there are as many connections as can be held, all of them with a request in progress; nothing was done. Try again",
    headers={"Retry-After": "1"},
)
# WebSockets that may be open: the Dagster UI has one in every tab.
_MAX_SOCKETS = 100
_MAX_MESSAGE_BYTES = 2 * 1024 * 1024
_NO_TUNNEL = HttpError(
    405, "method_not_allowed", "this is no proxy, and takes no CONNECT: ask for a path"
)
_NO_SOCKET = HttpError(
    400,
    "invalid_request",
    "a WebSocket is opened by a GET without a body, on a connection where no other answer is awaited",
)
_SOCKET_TOO_LARGE = HttpError(
    431,
    "headers_too_large",
    "the headers that open a WebSocket are too many or too long: send fewer",
)
_SOCKETS_FULL = HttpError(
    503,
    "busy",
    f"there are {_MAX_SOCKETS} open WebSockets, as many as can be held: close a tab, or try again",
    headers={"Retry-After": "10"},
)
_full = ThrottledWarning(
    "%d connections were refused: requests are in progress on all there may be (the latest from %s)"
)


class _Everybody:
    """What the connections of this process share."""

    def __init__(self) -> None:
        self.connections = ConnectionLimiter(
            max_connections(settings()), settings().connections_per_address
        )
        self.unread = 0
        self.lingering = 0
        self.sockets = 0


class _Refused(Exception):
    """Ends the parsing of what a client sends."""


class GuardedProtocol(HttpToolsProtocol):
    """A connection that may not take more than its part: of time, of bytes, of places."""

    everybody: _Everybody
    address = ""
    _headers_due: asyncio.TimerHandle | None = None
    _reading_due: asyncio.TimerHandle | None = None
    # What the request at hand has taken: bytes of its head, whether that is whole, bytes of its body and around it.
    _head = 0
    _in_head = True
    _begun = False
    _body = 0
    _around = 0
    # What is counted in `everybody.unread`, and the part of it that is not the body at hand: heads, and bodies that wait in the pipeline. And that part
    # without the head at hand.
    _unread = 0
    _besides = 0
    _before = 0
    _running: Any = None
    _problem = _NOT_HTTP
    _refused = False

    def connection_made(self, transport: Any) -> None:
        """A new connection gets a place, and has to bring its first headers in time."""
        super().connection_made(transport)
        self.address = client_address(self.client[0]) if self.client else ""
        if self.everybody.connections.admit(self):
            self._expect_headers()
        else:
            _full.warn(self.address)
            self._refuse(_FULL)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is expected of a connection that is gone, and it holds nothing."""
        self._no_longer_expect()
        if self._reading_due is not None:
            self._reading_due.cancel()
        self._count_unread(0)
        self.everybody.connections.remove(self)
        if self._running is not None and self._running is not self.cycle:
            # uvicorn tells the last request only.
            self._running.disconnected = True
            self._running.message_event.set()
        self.pipeline.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """What comes may be the beginning of another request; it is parsed as long as the client keeps to its limits."""
        if self._headers_due is None and self.cycle is not None and self.cycle.response_complete:
            self._expect_headers()
        if len(data) <= _PIECE:
            self._take(data)
            return
        for start in range(0, len(data), _PIECE):
            self._take(data[start : start + _PIECE])

    def _take(self, piece: bytes) -> None:
        if self._refused:
            return
        if self._in_head:
            self._head += len(piece)
        else:
            self._around += len(piece)
        self._parse(piece)
        if self._refused:
            return
        if self._in_head:
            if self._head > _MAX_HEAD_BYTES:
                self._refuse(_HEADERS_TOO_LARGE)
            elif self._begun and not self._count_unread(self._besides + self._head + len(piece)):
                self._refuse(body_memory.memory_full())
        elif self._around > _MAX_HEAD_BYTES + _AROUND_A_BYTE * self._body:
            self._refuse(_HEADERS_TOO_LARGE)

    def _parse(self, piece: bytes) -> None:
        """Let the parser call what is below.

        Where the client wishes for another protocol, the parser ends the request behind its head, whatever body is announced, for what follows could be of
        that protocol. A wish that is not granted is to be ignored (RFC 9110, 7.8): so a new parser gets the same head without the wish, and what follows.
        """
        self._unset_keepalive_if_required()
        while True:
            try:
                self.parser.feed_data(piece)
            except httptools.HttpParserError:
                self._refuse(self._problem)
            except httptools.HttpParserUpgrade as wish:
                if not self._should_upgrade():
                    piece = self._head_without(b"upgrade") + piece[wish.args[0] :]
                    self.parser = httptools.HttpRequestParser(self)
                    self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
                    continue
                self.handle_websocket_upgrade()
            return

    def _head_without(self, left_out: bytes | None) -> bytes:
        """The head at hand, as it was sent but for the headers of this name."""
        lines = [
            b"%s %s HTTP/%s"
            % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        ]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != left_out]
        return b"\r\n".join(lines) + b"\r\n\r\n"

    @property
    def _is_read_again(self) -> bool:
        """Whether the head at hand has a wish that is not granted."""
        return self.parser.should_upgrade() and not self._should_upgrade()

    def _should_upgrade(self) -> bool:
        """Whether a WebSocket is wished for, and may be had: not in HTTP/1.0 (RFC 9110, 7.8)."""
        return self.parser.get_http_version() == "1.1" and super()._should_upgrade()

    def on_message_begin(self) -> None:
        """The first byte of a request, or of its head that is read again."""
        super().on_message_begin()
        if not self._begun:
            self._before = self._unread if self._in_progress else 0
        self._begun = True
        self._besides = self._before

    def on_url(self, url: bytes) -> None:
        """A part of the target."""
        super().on_url(url)
        if len(self.url) > _MAX_TARGET_BYTES:
            self._stop(_TARGET_TOO_LONG)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; what comes as a trailer is none, and is left out."""
        if not self._in_head:
            return
        super().on_header(name, value)
        self._besides += len(name) + len(value) + _A_HEADER
        if len(self.headers) > _MAX_HEADERS:
            self._stop(_HEADERS_TOO_LARGE)

    def on_headers_complete(self) -> None:
        """The headers are whole: a request is in progress."""
        if self.parser.get_method() == b"CONNECT":
            self._stop(_NO_TUNNEL)
        if self._is_read_again:
            return
        if self.parser.should_upgrade():
            self._check_socket()
        self._no_longer_expect()
        if len(self.pipeline) >= _MAX_AHEAD:
            self._stop(_NOT_HTTP)
        self._besides += len(self.url)
        if not self._count_unread(self._besides):
            self._stop(body_memory.memory_full())
        super().on_headers_complete()
        self._in_head = self._begun = False
        self._head = self._body = self._around = 0
        self.everybody.connections.mark_active(self)

    def on_body(self, body: bytes) -> None:
        """A part of the body: kept until the handler asks for it."""
        self._body += len(body)
        self._around -= len(body)
        super().on_body(body)
        if not self._count_unread(self._besides + len(self.cycle.body)):
            self._stop(body_memory.memory_full())

    def on_message_complete(self) -> None:
        """The next byte begins another request."""
        if self._is_read_again:
            return
        self._in_head = True
        self._head = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The answer is written, though the client may not have read it yet."""
        self._running.body.clear()
        super().on_response_complete()
        if not self._in_progress:
            self._count_unread(0)
            self.everybody.connections.mark_idle(self)
            if not self._begun:
                # Until the next request comes uvicorn would keep this one.
                self._running.scope = {}
                self.scope = self._running.scope
                self.headers = []
            elif self._headers_due is None:
                self._expect_headers()
        if self.writing:
            self._expect_reading()

    def pause_writing(self) -> None:
        """The client does not read as fast as it is answered."""
        super().pause_writing()
        self._expect_reading()

    def _check_socket(self) -> None:
        """Refuse a WebSocket that cannot be had."""
        has_body = any(
            name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0 \t"))
            for name, value in self.headers
        )
        if self.parser.get_method() != b"GET" or has_body or self._in_progress:
            self._stop(_NO_SOCKET)
        if not self.url.isascii():
            self._stop(_NOT_HTTP)
        if self.everybody.sockets >= _MAX_SOCKETS:
            self._stop(_SOCKETS_FULL)

    def handle_websocket_upgrade(self) -> None:
        """The connection is another protocol's from now on, and keeps its place."""
        socket = cast("type[GuardedSocket]", self.ws_protocol_class)(
            config=self.config, server_state=self.server_state, app_state=self.app_state
        )
        socket.connection_made(self.transport)
        self.transport.set_protocol(socket)
        socket.data_received(self._head_without(None))
        if not socket.handshake_initiated:
            self.transport.set_protocol(self)
            self.connections.discard(socket)
            self._refuse(_SOCKET_TOO_LARGE)
            return
        self._refused = True
        self._count_unread(0)
        if self._reading_due is not None:
            self._reading_due.cancel()
        self.connections.discard(self)
        self.everybody.sockets += 1
        socket.watch(settings().client_timeout, self._socket_gone)

    def _socket_gone(self) -> None:
        self.everybody.sockets -= 1
        self.everybody.connections.remove(self)

    @property
    def writing(self) -> bool:
        """See `Connection`."""
        return self.transport.get_write_buffer_size() > 0

    def close(self) -> None:
        """See `Connection`."""
        self.transport.close()

    @property
    def _in_progress(self) -> bool:
        """Whether a request is being answered, or waits for that."""
        return bool(self.pipeline) or (
            self._running is not None and not self._running.response_complete
        )

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _count_unread(self, size: int) -> bool:
        """Note what is held for this connection; return whether that is not too much, for all together."""
        grown = size - self._unread
        self.everybody.unread += grown
        self._unread = size
        return grown <= 0 or self.everybody.unread <= _MAX_UNREAD_BYTES

    def _stop(self, problem: HttpError) -> None:
        """End the parsing; what is wrong is answered by `_refuse`."""
        self._problem = problem
        raise _Refused(problem.code)

    def _refuse(self, problem: HttpError) -> None:
        """Read no more, answer what came before, then this where it can still be answered, and close."""
        self._refused = True
        self._no_longer_expect()
        if self.pipeline and self.cycle.more_body:
            self.pipeline.popleft()  # it will never be whole
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
            self.transport.close()  # what is wrong is the body of a request that has its answer
            return
        if self.everybody.lingering >= _MAX_LINGERING:
            self.transport.abort()
            return
        self.transport.write(self._raw(problem))
        # Closed with something unread, it would be reset, and the answer could be lost on its way.
        self.transport.write_eof()
        self.everybody.lingering += 1
        self.loop.call_later(_LINGER_SECONDS, self._end_lingering)

    def _end_lingering(self) -> None:
        self.everybody.lingering -= 1
        self.transport.abort()

    def _raw(self, problem: HttpError) -> bytes:
        request_id = new_ulid()
        body = json.dumps(
            {
                "status": problem.status,
                "code": problem.code,
                "error": str(problem),
                "request_id": request_id,
            }
        ).encode()
        headers = {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Connection": "close",
            "X-Request-Id": request_id,
            **ANSWER_HEADERS,
            **problem.headers,
        }
        lines = [
            f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}",
            *[f"{name}: {value}" for name, value in headers.items()],
        ]
        dated = b"".join(b"%s: %s\r\n" % header for header in self.server_state.default_headers)
        return "\r\n".join(lines).encode() + b"\r\n" + dated + b"\r\n" + body

    def _expect_headers(self) -> None:
        self._headers_due = self.loop.call_later(settings().client_timeout, self.transport.close)

    def _no_longer_expect(self) -> None:
        if self._headers_due is not None:
            self._headers_due.cancel()
            self._headers_due = None

    def _expect_reading(self) -> None:
        """A client that reads nothing of its answer for a while is let go, for it is kept in memory."""
        if self._reading_due is None:
            self._reading_due = self.loop.call_later(
                settings().client_timeout,
                self._look_at_reading,
                self.transport.get_write_buffer_size(),
            )

    def _look_at_reading(self, before: int) -> None:
        self._reading_due = None
        left = self.transport.get_write_buffer_size()
        if left and left == before:
            self.transport.abort()
        elif left:
            self._expect_reading()


class _Releasing:
    """Lets go of what is held of a request's body when the request is done."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        try:
            await self._app(scope, receive, send)
        finally:
            body_memory.release(scope.get("state", {}))


def _socket_class() -> type[asyncio.Protocol]:
    """What speaks WebSocket; loaded only where it is needed, that is beside the Dagster UI, which brings the library."""
    from runyard.gateway.http.websockets import GuardedSocket

    return GuardedSocket


def serve(app: ASGIApp, *, websockets: bool = False) -> None:
    """Serve until stopped. There is no access log of uvicorn's: event keys are in the paths. Nor are its warnings: strangers can set off as many as they like."""
    GuardedProtocol.everybody = _Everybody()
    uvicorn.run(
        _Releasing(app),
        host=settings().host,
        port=settings().port,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        http=GuardedProtocol,
        ws=_socket_class() if websockets else "none",
        ws_max_size=_MAX_MESSAGE_BYTES,
        timeout_graceful_shutdown=3,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
    )
