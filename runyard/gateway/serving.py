"""The web server: uvicorn, with a limit on how long a client may take to send its headers.

uvicorn limits the time between two requests of a connection, but not the time that the headers of one may take. Read in uvicorn 0.54.
"""

import asyncio
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from runyard.settings import settings

_KEEP_ALIVE_SECONDS = 30
# Connections beyond these are answered 503 at once.
_MOST_CONNECTIONS = 2000


class TimedProtocol(HttpToolsProtocol):
    """Lets a client go that has begun a request and does not come to the end of its headers."""

    _headers_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """A new connection has to bring its first headers in time."""
        super().connection_made(transport)
        self._expect_headers()

    def data_received(self, data: bytes) -> None:
        """What comes may be the beginning of another request."""
        if self._headers_due is None and self.cycle is not None and self.cycle.response_complete:
            self._expect_headers()
        super().data_received(data)

    def on_headers_complete(self) -> None:
        """The headers are whole."""
        self._no_longer_expect()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is expected of a connection that is gone."""
        self._no_longer_expect()
        super().connection_lost(exc)

    def _expect_headers(self) -> None:
        self._headers_due = self.loop.call_later(settings().client_seconds, self.transport.close)

    def _no_longer_expect(self) -> None:
        if self._headers_due is not None:
            self._headers_due.cancel()
            self._headers_due = None


def serve(app: ASGIApp) -> None:
    """Serve until stopped. There is no access log of uvicorn's: event keys are in the paths."""
    uvicorn.run(
        app, host=settings().host, port=settings().port, log_level="warning", access_log=False, server_header=False, proxy_headers=False, http=TimedProtocol,
        timeout_graceful_shutdown=3, timeout_keep_alive=_KEEP_ALIVE_SECONDS, limit_concurrency=_MOST_CONNECTIONS,
    )  # fmt: skip
