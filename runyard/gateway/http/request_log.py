"""Request ids, timing, and one log line a request, which names no key, header or body."""

import logging
import re
import time
from contextvars import ContextVar

from starlette.requests import HTTPConnection, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runyard.events import new_ulid
from runyard.gateway.http import counters
from runyard.gateway.http.errors import as_http_error, error_response
from runyard.settings import settings
from runyard.syntax.traceparent import parse_traceparent
from runyard.text.json_lines import JsonFormatter
from runyard.text.redaction import redact
from runyard.tracing.contexts import incoming

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_current: ContextVar[str] = ContextVar("request", default="-")
_log = logging.getLogger("runyard.requests")


def log_to_stderr() -> None:
    """Set up the log of this process; every line has the id of its request, or `-`."""
    handler = logging.StreamHandler()
    handler.addFilter(_add_request_id)
    handler.setFormatter(
        JsonFormatter()
        if settings().log_format == "json"
        else _RedactingFormatter("%(levelname)s %(name)s [%(request)s] %(message)s")
    )
    logging.basicConfig(level=settings().log_level.upper(), handlers=[handler], force=True)


class _RedactingFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """Redact secrets, also in the traceback."""
        return redact(super().format(record))


def _add_request_id(record: logging.LogRecord) -> bool:
    record.request = _current.get()
    return True


class RequestLog:
    """Gives every request an id and its trace, and counts and logs those of our endpoints.

    The id is the client's own `X-Request-Id` if it is well-formed. Exceptions that nothing else has
    caught become a response here.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle an HTTP request; WebSockets get an id, and pass otherwise unchanged."""
        if scope["type"] != "lifespan":
            connection = HTTPConnection(scope)
            header = connection.headers.get("x-request-id", "")
            connection.state.request_id = header if _REQUEST_ID.fullmatch(header) else new_ulid()
            _current.set(connection.state.request_id)
            incoming.set(parse_traceparent(connection.headers.get("traceparent")))
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        began = time.monotonic()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                request_id = (b"x-request-id", request.state.request_id.encode())
                message = {**message, "headers": [*message.get("headers", []), request_id]}
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:
            if status:
                raise
            await error_response(request, as_http_error(error))(scope, receive, send_with_id)
        finally:
            _record(request, status, time.monotonic() - began)


def _record(request: Request, status: int, seconds: float) -> None:
    endpoint = getattr(request.state, "endpoint", None)
    if endpoint is None:
        return
    counters.requests.labels(endpoint, str(status)).inc()
    counters.seconds.labels(endpoint).observe(seconds)
    level = logging.INFO
    if status >= 500:
        level = logging.ERROR if status == 500 else logging.WARNING
    _log.log(level, "%s %d in %.0f ms", endpoint, status, seconds * 1000)
