"""Posts encoded spans to a collector: OTLP over HTTP, in two seconds at most, whatever it answers.

OpenTelemetry's own exporter bounds neither how long an answer takes as a whole nor how much of it
is read.
"""

import asyncio
import gzip
import os
import ssl
import zlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

import aiohttp
from typing_extensions import override

from runyard.syntax.export_options import EXPORT_SECONDS, ExportOptions
from runyard.text.request_errors import why_no_answer

# Between the tries of a request that a collector could not take for the moment.
_PAUSE_SECONDS = 0.5
_FOR_THE_MOMENT = (429, 502, 503, 504)


class NotTaken(Exception):
    """The collector refuses a request; the message has its answer."""


class Collector:
    """The collector that the variables name, and a connection to it; for one thread, to be closed.

    Parameters
    ----------
    options
        Where it is, and how requests are made.
    """

    def __init__(self, options: ExportOptions) -> None:
        self._options = options
        self._runner = asyncio.Runner()
        self._runner.get_loop().set_default_executor(_SameThread())
        self._session: aiohttp.ClientSession | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._session is not None:
            self._runner.run(self._session.close())
        self._runner.close()

    def post(self, body: bytes, seconds: float = EXPORT_SECONDS) -> None:
        """Post the body of a request.

        What the collector cannot take for the moment is posted again. Raises `NotTaken` when it
        refuses, `TimeoutError` after so many seconds, and aiohttp's errors.
        """
        self._runner.run(asyncio.wait_for(self._post(self._compressed(body)), seconds))

    async def _post(self, body: bytes) -> None:
        if self._session is None:
            self._session = self._new_session()
        try:
            status = await self._status(self._session, body)
        except aiohttp.ClientConnectionError:
            # The collector may have closed a connection that nobody used for a while.
            status = await self._status(self._session, body)
        while status in _FOR_THE_MOMENT:
            await asyncio.sleep(_PAUSE_SECONDS)
            status = await self._status(self._session, body)
        if not 200 <= status < 300:
            raise NotTaken(f"it answered {status}")

    async def _status(self, session: aiohttp.ClientSession, body: bytes) -> int:
        # A redirect would take the headers, which may be secret, elsewhere.
        async with session.post(self._options.url, data=body, allow_redirects=False) as answer:
            return answer.status

    def _new_session(self) -> aiohttp.ClientSession:
        headers = {"Content-Type": "application/x-protobuf", **self._options.headers}
        if self._options.compression != "none":
            headers["Content-Encoding"] = self._options.compression
        connector = aiohttp.TCPConnector(ssl=self._ssl())
        return aiohttp.ClientSession(connector=connector, headers=headers, trust_env=True)

    def _ssl(self) -> ssl.SSLContext | bool:
        options = self._options
        if not options.certificate and not options.client_certificate:
            return True
        context = ssl.create_default_context(cafile=options.certificate or None)
        if options.client_certificate:
            context.load_cert_chain(options.client_certificate, options.client_key or None)
        return context

    def _compressed(self, body: bytes) -> bytes:
        match self._options.compression:
            case "gzip":
                return gzip.compress(body)
            case "deflate":
                return zlib.compress(body)
            case _:
                return body


class _SameThread(ThreadPoolExecutor):
    """Does at once what aiohttp leaves to other threads: a process that ends starts no others."""

    @override
    def submit(self, fn: Callable[..., Any], /, *args: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **options))
        except Exception as error:
            future.set_exception(error)
        return future


def why_not_taken(error: Exception) -> str:
    """What is wrong with a collector, by an error of `Collector.post`; without its address."""
    return str(error) if isinstance(error, NotTaken) else why_no_answer(error)


def problem_with_collector() -> str:
    """Return why the collector does not take an export of no spans; empty if it does."""
    with Collector(ExportOptions.from_environment(os.environ)) as collector:
        try:
            collector.post(b"")
        except (NotTaken, aiohttp.ClientError, OSError, ValueError) as error:
            return why_not_taken(error)
        return ""
