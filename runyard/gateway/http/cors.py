"""Which pages may read our answers: those of the allow-list; of any origin for the event API where its key is asked for, as Inngest has it. Never with credentials."""

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from runyard.gateway.http.guard import CORS_PATHS
from runyard.settings import settings

_EXPOSED = ["X-Request-Id", "Retry-After"]
_METHODS = ["GET", "POST", "DELETE"]


class Cors:
    """Answers preflights, and adds the headers that let a page read an answer.

    Parameters
    ----------
    development
        Whether no key is asked for, so that no path is open to all.
    """

    def __init__(self, app: ASGIApp, development: bool) -> None:
        self._plain = app
        self._listed = CORSMiddleware(
            app,
            allow_origins=settings().cors_origins,
            allow_methods=_METHODS,
            allow_headers=["*"],
            expose_headers=_EXPOSED,
        )
        any_origin = CORSMiddleware(
            app,
            allow_origins=["*"],
            allow_methods=["POST"],
            allow_headers=["*"],
            expose_headers=_EXPOSED,
        )
        self._event_api = self._listed if development else any_origin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request by the rule of its path."""
        path = scope.get("path", "")
        chosen = (
            self._event_api
            if path.startswith("/e/")
            else self._listed
            if path.startswith(CORS_PATHS)
            else self._plain
        )
        await chosen(scope, receive, send)
