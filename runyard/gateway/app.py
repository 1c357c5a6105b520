"""Puts the web process together: our routes first, the Dagster UI behind them, one port.

Dagster's UI has no log-in, so it is served on loopback only; on any other address the door for events stands alone and
asks for a key.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster_webserver.app import create_app_from_workspace_process_context
from psycopg_pool import AsyncConnectionPool
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from runyard.dagster_internals import pooled_instance
from runyard.errors import RunyardError
from runyard.gateway.health import alive, ready
from runyard.gateway.ingest import send_events
from runyard.gateway.pages import dev_page
from runyard.settings import settings
from runyard.store.database import database_url

_LOOPBACK_NAMES = ["localhost", "127.0.0.1", "[::1]"]
_POOL_SIZE = 8


def build_app(dagster_ui: Starlette | None) -> Starlette:
    """The application; `dagster_ui` is served behind our routes where it is given."""
    routes: list[BaseRoute] = [
        Route("/e/{key}", send_events, methods=["POST"]),
        Route("/healthz", alive),
        Route("/readyz", ready),
    ]
    if dagster_ui is not None:
        routes += [
            Route("/dev", dev_page),
            Mount("/dev/static", StaticFiles(directory=Path(__file__).parent / "static")),
            Mount("/", dagster_ui),
        ]
    # On loopback a page of another site must not reach us under a name of its own (DNS rebinding).
    middleware = [Middleware(TrustedHostMiddleware, allowed_hosts=_LOOPBACK_NAMES)] if settings().loopback_only else []
    return Starlette(routes=routes, middleware=middleware, lifespan=_with_pool)


@asynccontextmanager
async def _with_pool(app: Starlette) -> AsyncIterator[None]:
    async with AsyncConnectionPool(
        database_url(), min_size=1, max_size=_POOL_SIZE, timeout=5, kwargs={"autocommit": True, "application_name": "runyard web"}, open=False,
        check=AsyncConnectionPool.check_connection,
    ) as pool:  # fmt: skip
        app.state.pool = pool
        yield


def serve_web(workspace: Path, *, api_only: bool = False) -> int:
    """Serve until stopped; raises `RunyardError` for an address that can be reached from outside without keys."""
    chosen = settings()
    if not chosen.loopback_only:
        if not chosen.event_keys:
            raise RunyardError(f"RUNYARD_HOST={chosen.host} can be reached from outside: set RUNYARD_EVENT_KEYS, or listen on 127.0.0.1")
        if not api_only:
            raise RunyardError(
                "the Dagster UI has no log-in and is served on 127.0.0.1 only: use `runyard web --api-only` here, and a tunnel or a proxy with a log-in for the UI"
            )
    if api_only:
        _run(build_app(None))
        return 0
    with pooled_instance() as instance, WorkspaceProcessContext(instance, WorkspaceFileTarget(paths=[str(workspace)])) as context:
        _run(build_app(create_app_from_workspace_process_context(context)))
    return 0


def _run(app: Starlette) -> None:
    # No access log: event keys are in the paths.
    uvicorn.run(
        app, host=settings().host, port=settings().port, log_level="warning", access_log=False, server_header=False,
        timeout_graceful_shutdown=3, timeout_keep_alive=30,
    )  # fmt: skip
