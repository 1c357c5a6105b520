"""A transport for httpx that bounds a whole exchange, in time and in bytes.

httpx has timeouts for single reads alone, which a server that sends a byte a second never meets. Here every wait is for what is left of the time: for the
connection, TLS, the headers and the body of each answer alike. Nothing runs beside it, so nothing is left behind.
"""

import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any

import httpcore
import httpx

from runyard.errors import NonRetriable


class TooLarge(NonRetriable):
    """Seen by whoever gave a URL: what is behind it is larger than it may be."""


class Bounds:
    """What an exchange may take, redirects and all: `seconds` from now, and `most` bytes as they come from the network."""

    def __init__(self, seconds: float, most: int) -> None:
        self.seconds = seconds
        self._until = time.monotonic() + seconds
        self._bytes_left = most

    def seconds_left(self, over: type[Exception] = TimeoutError) -> float:
        """Seconds that are left, more than 0; raises `over` when there are none."""
        left = self._until - time.monotonic()
        if left <= 0:
            raise over(f"it takes longer than {self.seconds:g} s")
        return left

    def count(self, size: int) -> None:
        """So many bytes have come; raises `TooLarge` when they are too many."""
        self._bytes_left -= size
        if self._bytes_left < 0:
            raise TooLarge("the answer is larger than it may be")


class BoundedTransport(httpx.HTTPTransport):
    """Sends the requests of one exchange, each over a connection of its own."""

    def __init__(self, bounds: Bounds) -> None:
        context = _ssl_context()
        super().__init__(verify=context, trust_env=False)
        # httpx has no parameter for the network behind its pool. A connection is never used again: it was made for one name, and checked by that name alone.
        self._pool = httpcore.ConnectionPool(
            ssl_context=context,
            max_connections=1,
            max_keepalive_connections=0,
            network_backend=_Network(bounds),
        )


def bound_body(response: Any, bounds: Bounds) -> None:
    """Hold the body of an answer to its bounds while a library of others reads it.

    `response` is that of an httpx or of requests, and nothing of it has been read yet.
    """
    name = "iter_bytes" if hasattr(response, "iter_bytes") else "iter_content"
    read = getattr(response, name)

    def bounded(*args: Any, **options: Any) -> Iterator[Any]:
        for piece in read(*args, **options):
            bounds.seconds_left()
            bounds.count(len(piece))
            yield piece

    setattr(response, name, bounded)


@contextmanager
def cut_after(seconds: float, response: Any) -> Iterator[None]:
    """Cut the connection of an answer when the block takes longer than this; for clients of others, whose network is their own. `response` is that of an httpx."""
    stream = response.extensions.get("network_stream")
    connection = stream.get_extra_info("socket") if stream is not None else None
    timer = threading.Timer(max(0.0, seconds), _cut, (connection,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _cut(connection: socket.socket | None) -> None:
    if connection is not None:
        with suppress(OSError):
            # Below TLS, which another thread may be reading at this moment.
            socket.socket.shutdown(connection, socket.SHUT_RDWR)


class _Network(httpcore.NetworkBackend):
    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._inner = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        del timeout
        left = self._bounds.seconds_left(httpcore.ConnectTimeout)
        return _Stream(
            self._inner.connect_tcp(host, port, left, local_address, socket_options), self._bounds
        )


class _Stream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream, bounds: Bounds) -> None:
        self._inner = inner
        self._bounds = bounds

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        del timeout
        piece = self._inner.read(max_bytes, self._bounds.seconds_left(httpcore.ReadTimeout))
        self._bounds.count(len(piece))
        return piece

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        del timeout
        # The stream's own `write` waits anew for every piece that the other side takes.
        connection: socket.socket = self._inner.get_extra_info("socket")
        rest = memoryview(buffer)
        try:
            while rest:
                connection.settimeout(self._bounds.seconds_left(httpcore.WriteTimeout))
                rest = rest[connection.send(rest) :]
        except TimeoutError as error:
            raise httpcore.WriteTimeout(str(error)) from error
        except OSError as error:
            raise httpcore.WriteError(str(error)) from error

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        del timeout
        return _Stream(
            self._inner.start_tls(
                ssl_context, server_hostname, self._bounds.seconds_left(httpcore.ConnectTimeout)
            ),
            self._bounds,
        )

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


@lru_cache(maxsize=1)
def _ssl_context() -> ssl.SSLContext:
    """The certificates that are trusted: read once, for that takes longer than many a request."""
    return httpx.create_ssl_context(trust_env=False)
