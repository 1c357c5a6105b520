"""A transport for httpx that limits a whole exchange, in time and in bytes.

httpx only has timeouts for single reads, which a server that sends a byte a second never hits.
Here every wait is limited to what is left of the time: for the connection, TLS, headers and body of
every answer. No thread runs beside it, so nothing is left behind.
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
    """What is behind a URL is larger than allowed."""


class Bounds:
    """The limits of an exchange, redirects included: `seconds` from now, and `most` bytes."""

    def __init__(self, seconds: float, most: int) -> None:
        self.seconds = seconds
        self._until = time.monotonic() + seconds
        self._bytes_left = most

    def seconds_left(self, over: type[Exception] = TimeoutError) -> float:
        """Seconds that are left, more than 0; raises `over` when the time is up."""
        left = self._until - time.monotonic()
        if left <= 0:
            raise over(f"it takes longer than {self.seconds:g} s")
        return left

    def count(self, size: int) -> None:
        """Count received bytes; raises `TooLarge` when there are too many."""
        self._bytes_left -= size
        if self._bytes_left < 0:
            raise TooLarge("the answer is larger than it may be")


class BoundedTransport(httpx.HTTPTransport):
    """Sends the requests of one exchange, each over a connection of its own."""

    def __init__(self, bounds: Bounds) -> None:
        context = _ssl_context()
        super().__init__(verify=context, trust_env=False)
        # httpx has no parameter for the network backend. A connection is never reused: it was made
        # for one host name, and checked under that name only.
        self._pool = httpcore.ConnectionPool(
            ssl_context=context,
            max_connections=1,
            max_keepalive_connections=0,
            network_backend=_Network(bounds),
        )


def bound_body(response: Any, bounds: Bounds) -> None:
    """Limit the body of an answer that another library reads.

    `response` is one of httpx or requests, and nothing of it has been read yet.
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
    """Cut an answer's connection when the block takes longer; for clients with their own network.

    `response` is one of httpx.
    """
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
            # Below TLS, which another thread may be reading right now.
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
        # The stream's own `write` starts its timeout anew for every piece that is accepted.
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
    """The trusted certificates, read once, because that takes longer than many requests."""

    return httpx.create_ssl_context(trust_env=False)
