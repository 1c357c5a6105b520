"""CORS: which pages may read our responses, always without credentials.

Pages of the origins in RUNYARD_CORS_ORIGINS may. The event API is open to pages of any origin where
it requires a key, as Inngest's is.
"""

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from runyard.gateway.http.guard import CORS_PATHS
from runyard.settings import settings

_EXPOSED = ["X-Request-Id", "Retry-After"]
_METHODS = ["GET", "POST", "DELETE"]


class Cors:
    """Responds to preflight requests, and adds the headers that let a page read a response.

    Parameters
    ----------
    development
        Whether no key is required: then no path is open to every origin.
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
        """Apply the rule for the request's path."""
        await self._app_for(scope.get("path", ""))(scope, receive, send)

    def _app_for(self, path: str) -> ASGIApp:
        if path.startswith("/e/"):
            return self._event_api
        return self._listed if path.startswith(CORS_PATHS) else self._plain
