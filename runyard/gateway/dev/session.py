"""Who visits the dev page: the key is in a cookie, and every form has a token that only pages made for this cookie have.

In development no key is asked for; the cookie holds a random word then. The token is an HMAC of the cookie's value, so that it needs no store
and holds in every web process. Forms are taken from pages of this very address alone.
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
    """The key of who asks, from the cookie or a header; raises `HttpError` as `Authenticator.authenticate` does, and for a key that is for some events only."""
    key = await _access(request).authenticate(request, scope, cookie=cookie(request))
    check_for_all_events(key)
    return key


async def still_valid(request: Request, key: Key) -> bool:
    """Whether a visitor's key has not been revoked since."""
    return await _access(request).is_still_valid(key)


def cookie(request: Request) -> str | None:
    """The value of our cookie. Starlette would read all of them, whose quoting takes it seconds where somebody wishes that."""
    for part in request.headers.get("cookie", "").split(";"):
        name, _, value = part.partition("=")
        if name.strip() == COOKIE:
            return value.strip().strip('"')
    return None


def token(request: Request) -> str:
    """The token for the forms of a page."""
    request.state.session = (
        cookie(request) or getattr(request.state, "session", None) or secrets.token_urlsafe(18)
    )
    return _token_of(request.state.session)


def check_form(request: Request, given: str) -> None:
    """Raise `HttpError` unless a form comes from one of our own pages, and was made for this visitor."""
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise HttpError(
            403,
            "origin_not_allowed",
            "this form comes from a page of another address: open it here, and send it again",
        )
    session = cookie(request)
    if session is None or not hmac.compare_digest(_token_of(session).encode(), given.encode()):
        raise HttpError(
            403, "csrf_failed", "this page is out of date: open it again, and send the form again"
        )


def begin(request: Request, answer: Response, value: str) -> None:
    """Give the visitor a cookie: as long as the browser is open, out of reach of scripts, and over HTTPS alone where that is in use."""
    secure = request.headers.get("x-forwarded-proto", request.url.scheme) == "https"
    answer.set_cookie(COOKIE, value, path="/dev", httponly=True, samesite="lax", secure=secure)


def end(answer: Response) -> None:
    """Take the cookie away."""
    answer.delete_cookie(COOKIE, path="/dev")


def _token_of(session: str) -> str:
    return hmac.new(session.encode(), b"forms of the dev page", hashlib.sha256).hexdigest()


def _access(request: Request) -> Authenticator:
    access: Authenticator = request.app.state.services.authenticator
    return access
