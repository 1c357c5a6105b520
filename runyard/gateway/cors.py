"""Which pages may call: of any origin for the event API, as Inngest has it; the rest of the API those of the allow-list. Never with credentials."""

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from runyard.settings import settings

_LOOPBACK = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"
_EXPOSED = ["X-Request-Id", "Retry-After"]
_METHODS = ["GET", "POST", "DELETE"]
# Not the Dagster UI, and not what machines ask.
_LISTED = ("/api/", "/v1/", "/functions/")


class Cors:
    """Answers preflights, and adds the headers that let a page read an answer.

    Parameters
    ----------
    development
        Whether pages served on this machine may call without being listed.
    """

    def __init__(self, app: ASGIApp, development: bool) -> None:
        self._plain = app
        self._open = CORSMiddleware(app, allow_origins=["*"], allow_methods=["POST"], allow_headers=["*"], expose_headers=_EXPOSED)
        self._listed = CORSMiddleware(
            app, allow_origins=settings().cors_origins, allow_origin_regex=_LOOPBACK if development else None, allow_methods=_METHODS, allow_headers=["*"],
            expose_headers=_EXPOSED,
        )  # fmt: skip

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request by the rule of its path."""
        path = scope.get("path", "")
        chosen = self._open if path.startswith("/e/") else self._listed if path.startswith(_LISTED) else self._plain
        await chosen(scope, receive, send)
