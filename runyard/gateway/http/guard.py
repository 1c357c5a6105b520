"""Rejects requests that no endpoint, dev page or Dagster UI should even see.

In development no key is required, so a page of another site that the developer has open could act
in their name. Browsers say where a request comes from, in `Origin` (Fetch Standard, 3.2) and
`Sec-Fetch-Site` (Fetch Metadata Request Headers). Requests from other sites are rejected, even GET,
which can have an effect or a cost too; programs send neither header. Nothing at all is served under
a host name that is not this machine's (DNS rebinding).

Where keys are required, only malformed requests are rejected here: a page cannot send a key that it
does not have.
"""

import re
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from runyard.gateway.http.errors import HttpError, error_response
from runyard.settings import settings

# The paths that pages of allowed origins may call: those for applications, not the Dagster UI.
CORS_PATHS = ("/e/", "/api/", "/v1/", "/functions/")
_THIS_MACHINE = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)
_ORIGIN = re.compile(r"null|[a-z][a-z0-9+.-]{0,30}://[^\s/?#@\\]{1,260}", re.IGNORECASE)
_SAME_SITE = ("same-origin", "none")
_JSON = re.compile(r"application/([\w.-]+\+)?json")
# The content type that `curl -d` declares, and also the form of a page.
FORM = "application/x-www-form-urlencoded"
_GRAPHQL = "/graphql"
# Bodies of the SDKs that are not JSON, to paths of theirs. Pages need a preflight to send them.
_OF_SDKS = ("application/octet-stream", "application/protobuf", "text/stream")
_SDK_PATHS = ("/v0/connect/", "/v1/realtime/")


class Guard:
    """Rejects requests by their origin, host, path and content type.

    Parameters
    ----------
    development
        Whether no key is required.
    is_page
        Whether a path is a page for people, to which another site may link.
    sockets
        The paths that accept WebSockets.
    """

    def __init__(
        self,
        app: ASGIApp,
        development: bool,
        is_page: Callable[[Scope], bool],
        sockets: tuple[str, ...],
    ) -> None:
        self._app = app
        self._development = development
        self._is_page = is_page
        self._sockets = sockets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or reject it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        try:
            self._check(scope, Headers(scope=scope))
        except HttpError as error:
            await error_response(HTTPConnection(scope), error)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _check(self, scope: Scope, headers: Headers) -> None:
        """Raise `HttpError` for a request that must not pass."""
        origin = _origin(headers)
        path: str = scope["path"]
        if scope["type"] == "websocket" and path not in self._sockets:
            raise HttpError(404, "not_found", "there is no WebSocket at this path")
        if not self._development:
            return
        if not _THIS_MACHINE.fullmatch(headers.get("host", "")):
            message = "in development only localhost and 127.0.0.1 are served: use one of those"
            raise HttpError(400, "host_not_allowed", message)
        if self._is_cross_origin(scope, headers, origin):
            message = "pages of another origin may not call this"
            if origin not in (None, "null") and path.startswith(CORS_PATHS):
                message += f": add {origin} to RUNYARD_CORS_ORIGINS"
            raise HttpError(403, "origin_not_allowed", message)
        if scope["type"] == "http":
            _check_content_type(scope, headers)

    def _is_cross_origin(self, scope: Scope, headers: Headers, origin: str | None) -> bool:
        """Whether a page of another origin sends this, unless it is allowed or merely a link."""
        if (
            origin is not None
            and origin in settings().cors_origins
            and scope["path"].startswith(CORS_PATHS)
        ):
            return False
        host = headers["host"].lower()
        if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
            return True
        if headers.get("sec-fetch-site", "none") in _SAME_SITE:
            return False
        is_link = (
            scope["type"] == "http"
            and scope["method"] in ("GET", "HEAD")
            and headers.get("sec-fetch-mode") == "navigate"
            and headers.get("sec-fetch-dest") == "document"
        )
        return not (is_link and self._is_page(scope))


def _origin(headers: Headers) -> str | None:
    """The origin of the calling page in lower case, or None; raises `HttpError` if malformed."""
    origins = headers.getlist("origin")
    if not origins:
        return None
    origin = origins[0].lower()
    try:
        well_formed = len(origins) == 1 and _ORIGIN.fullmatch(origin) is not None
        urlsplit(origin).port  # noqa: B018 (it is read for its ValueError)
    except ValueError:
        well_formed = False
    if not well_formed:
        message = "the header Origin is not an origin: send https://host, or omit it"
        raise HttpError(400, "invalid_origin", message)
    return origin


def media_type(headers: Headers) -> str:
    """The media type of a body as it is declared, without parameters; empty if it is not."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def _check_content_type(scope: Scope, headers: Headers) -> None:
    """Raise `HttpError` for a body in a content type that pages may send without a preflight.

    (Fetch Standard, CORS-safelisted.) The default of `curl -d` is accepted from what is not a
    browser. GraphQL over GET is rejected, for it could be a mutation.
    """
    path, method = scope["path"], scope["method"]
    if path == _GRAPHQL and method == "GET" and "text/html" not in headers.get("accept", ""):
        message = "send GraphQL as JSON with POST"
        raise HttpError(405, "method_not_allowed", message, headers={"Allow": "POST"})
    declared = media_type(headers)
    if (
        method in ("GET", "HEAD", "OPTIONS")
        or not declared
        or _JSON.fullmatch(declared)
        or path.startswith("/dev/")
        or (declared in _OF_SDKS and path.startswith(_SDK_PATHS))
    ):
        return
    by_browser = "origin" in headers or "sec-fetch-site" in headers
    if declared == FORM and not by_browser:
        return
    if declared == "application/graphql" and path == _GRAPHQL:
        return
    message = (
        f"this endpoint takes JSON, not {declared[:100]}:"
        " send it with Content-Type: application/json (with curl: --json)"
    )
    raise HttpError(415, "not_json", message)
