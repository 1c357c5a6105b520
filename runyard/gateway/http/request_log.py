"""Around every request: its id, how long it took, and one line in the log that names neither key, header nor body."""

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
from runyard.text.redaction import redact

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_current: ContextVar[str] = ContextVar("request", default="-")
_log = logging.getLogger("runyard.requests")


def log_to_stderr() -> None:
    """Write the log of this process, every line with the id of the request that it is about (`-` for none)."""
    handler = logging.StreamHandler()
    handler.addFilter(_name_request)
    handler.setFormatter(_WithoutSecrets("%(levelname)s %(name)s [%(request)s] %(message)s"))
    logging.basicConfig(level=settings().log_level.upper(), handlers=[handler])


class _WithoutSecrets(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """As the base does, the traceback too."""
        return redact(super().format(record))


def _name_request(record: logging.LogRecord) -> bool:
    record.request = _current.get()
    return True


class RequestLog:
    """Gives every request an id (its own `X-Request-Id`, where it has a good one), counts and logs those of our endpoints, answers for errors that nobody caught."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request; everything else goes through as it is."""
        if scope["type"] != "lifespan":
            connection = HTTPConnection(scope)
            given = connection.headers.get("x-request-id", "")
            connection.state.request_id = given if _REQUEST_ID.fullmatch(given) else new_ulid()
            _current.set(connection.state.request_id)
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        began = time.monotonic()
        status = 0

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {
                    **message,
                    "headers": [
                        *message.get("headers", []),
                        (b"x-request-id", request.state.request_id.encode()),
                    ],
                }
            await send(message)

        try:
            await self._app(scope, receive, observed)
        except Exception as error:
            if status:
                raise
            await error_response(request, as_http_error(error))(scope, receive, observed)
        finally:
            _note(request, status, time.monotonic() - began)


def _note(request: Request, status: int, seconds: float) -> None:
    endpoint = getattr(request.state, "endpoint", None)
    if endpoint is None:
        return
    counters.requests.labels(endpoint, str(status)).inc()
    counters.seconds.labels(endpoint).observe(seconds)
    level = logging.ERROR if status == 500 else logging.WARNING if status >= 500 else logging.INFO
    _log.log(level, "%s %d in %.0f ms", endpoint, status, seconds * 1000)
