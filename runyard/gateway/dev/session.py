"""Visitors of the dev page: the key is in a cookie, and every form has a CSRF token.

In development no key is required, and the cookie holds a random value. The token is an HMAC of the
cookie's value, so that it needs no storage and is valid in every web process. Forms are accepted
only from pages of the same origin.
"""

import hashlib
import hmac
import secrets
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

from runyard.engine.api_keys import Key, Scope
from runyard.gateway.http.auth import Authenticator, check_for_all_events
from runyard.gateway.http.errors import HttpError

COOKIE = "runyard_dev"
TOKEN_FIELD = "token"  # noqa: S105 (the name of a field)


async def visitor(request: Request, scope: Scope) -> Key:
    """The visitor's key, from the cookie or a header.

    Raises `HttpError` as `Authenticator.authenticate` does, and for a key that is restricted to
    some events.
    """
    key = await _authenticator(request).authenticate(request, scope, cookie=cookie(request))
    check_for_all_events(key)
    return key


async def still_valid(request: Request, key: Key) -> bool:
    """Whether a visitor's key has not been revoked."""
    return await _authenticator(request).is_still_valid(key)


def cookie(request: Request) -> str | None:
    """The value of our cookie.

    Starlette would parse all cookies, and their quoting can be crafted to take it seconds.
    """
    for part in request.headers.get("cookie", "").split(";"):
        name, _, value = part.partition("=")
        if name.strip() == COOKIE:
            return value.strip().strip('"')
    return None


def token(request: Request) -> str:
    """The token for the forms of a page."""
    session = cookie(request) or getattr(request.state, "session", None)
    request.state.session = session or secrets.token_urlsafe(18)
    return _token_of(request.state.session)


def check_form(request: Request, token: str) -> None:
    """Raise `HttpError` unless a form is from our own origin, with the token of this visitor."""
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise HttpError(
            403,
            "origin_not_allowed",
            "this form comes from another origin: open the page here, and send it again",
        )
    session = cookie(request)
    if session is None or not hmac.compare_digest(_token_of(session).encode(), token.encode()):
        raise HttpError(
            403, "csrf_failed", "this page is out of date: open it again, and send the form again"
        )


def begin(request: Request, response: Response, value: str) -> None:
    """Set the cookie: for the browser session, not readable by scripts, secure behind HTTPS."""
    secure = request.headers.get("x-forwarded-proto", request.url.scheme) == "https"
    response.set_cookie(COOKIE, value, path="/dev", httponly=True, samesite="lax", secure=secure)


def end(response: Response) -> None:
    """Delete the cookie."""
    response.delete_cookie(COOKIE, path="/dev")


def _token_of(session: str) -> str:
    return hmac.new(session.encode(), b"forms of the dev page", hashlib.sha256).hexdigest()


def _authenticator(request: Request) -> Authenticator:
    authenticator: Authenticator = request.app.state.services.authenticator
    return authenticator
