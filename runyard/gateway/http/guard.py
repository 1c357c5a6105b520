"""The guard before the whole web process: which requests are not even looked at, be they for our endpoints, the dev page or the Dagster UI.

In development no key is asked for, so a page of another site that the developer has open could act in their name. Browsers say where a request
comes from, in `Origin` (Fetch Standard, 3.2) and in `Sec-Fetch-Site` (Fetch Metadata Request Headers); what comes from elsewhere is refused, also
a GET, for that can have an effect or a cost too. Programs send neither header. Under a name that is not this machine's nothing is answered at
all (DNS rebinding).

Where keys are asked for only what is malformed is refused here: a page cannot send a key that it does not have.
"""

import re
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from runyard.gateway.http.errors import HttpError, error_response
from runyard.settings import settings

# Where the pages of listed origins may ask: what is meant for applications, and not the Dagster UI.
CORS_PATHS = ("/e/", "/api/", "/v1/", "/functions/")
_THIS_MACHINE = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)
_ORIGIN = re.compile(r"null|[a-z][a-z0-9+.-]{0,30}://[^\s/?#@\\]{1,260}", re.IGNORECASE)
_FROM_HERE = ("same-origin", "none")
_JSON = re.compile(r"application/([\w.-]+\+)?json")
# What `curl -d` declares, and a form of a page too.
_FORM = "application/x-www-form-urlencoded"
_GRAPHQL = "/graphql"


class Guard:
    """Refuses what must not come further.

    Parameters
    ----------
    development
        Whether no key is asked for.
    is_page
        Tells whether a path is a page for people, to which a link on another site may lead.
    sockets
        The paths that take WebSockets.
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
        """Let a request through, or answer it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        try:
            self._check(scope, Headers(scope=scope))
        except HttpError as problem:
            await error_response(HTTPConnection(scope), problem)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _check(self, scope: Scope, headers: Headers) -> None:
        """Raise `HttpError` for what must not come further."""
        origin = _origin(headers)
        if scope["type"] == "websocket" and scope["path"] not in self._sockets:
            raise HttpError(404, "not_found", "no WebSocket is served here")
        if not self._development:
            return
        if not _THIS_MACHINE.fullmatch(headers.get("host", "")):
            raise HttpError(
                400,
                "host_not_allowed",
                "in development this is served under localhost and 127.0.0.1 only: ask there",
            )
        if self._is_foreign(scope, headers, origin):
            step = (
                f": add {origin} to RUNYARD_CORS_ORIGINS"
                if origin not in (None, "null") and scope["path"].startswith(CORS_PATHS)
                else ""
            )
            raise HttpError(
                403, "origin_not_allowed", f"pages of another origin may not ask here{step}"
            )
        if scope["type"] == "http":
            _check_body_type(scope, headers)

    def _is_foreign(self, scope: Scope, headers: Headers, origin: str | None) -> bool:
        """Whether a browser says that a page of another origin asks, which is neither listed nor only leads here."""
        if (
            origin is not None
            and origin in settings().cors_origins
            and scope["path"].startswith(CORS_PATHS)
        ):
            return False
        if origin is not None and origin not in (
            f"http://{headers['host'].lower()}",
            f"https://{headers['host'].lower()}",
        ):
            return True
        if headers.get("sec-fetch-site", "none") in _FROM_HERE:
            return False
        followed = (
            scope["type"] == "http"
            and scope["method"] in ("GET", "HEAD")
            and headers.get("sec-fetch-mode") == "navigate"
        )
        return not (
            followed and headers.get("sec-fetch-dest") == "document" and self._is_page(scope)
        )


def _origin(headers: Headers) -> str | None:
    """The origin of the page that asks, in lower case; None where none is told. Raises `HttpError` for what is none."""
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
        raise HttpError(
            400,
            "invalid_origin",
            "the header Origin is not an origin: send https://host, or leave it out",
        )
    return origin


def _check_body_type(scope: Scope, headers: Headers) -> None:
    """Raise `HttpError` for a body that is declared as what a page could send without being asked (Fetch Standard, CORS-safelisted), and JSON is meant.

    What curl declares by itself is taken from what is no browser. GraphQL by GET is refused, for it could be a mutation.
    """
    path, method = scope["path"], scope["method"]
    if path == _GRAPHQL and method == "GET" and "text/html" not in headers.get("accept", ""):
        raise HttpError(
            405, "method_not_allowed", "send GraphQL by POST, as JSON", headers={"Allow": "POST"}
        )
    declared = headers.get("content-type", "").partition(";")[0].strip().lower()
    if (
        method in ("GET", "HEAD", "OPTIONS")
        or not declared
        or _JSON.fullmatch(declared)
        or path.startswith("/dev/")
    ):
        return
    by_browser = "origin" in headers or "sec-fetch-site" in headers
    if (declared == _FORM and not by_browser) or (
        declared == "application/graphql" and path == _GRAPHQL
    ):
        return
    raise HttpError(
        415,
        "not_json",
        f"JSON is meant here, not {declared[:100]}: send it with Content-Type: application/json (with curl: --json)",
    )
