"""Assembles the web process: our endpoints first, the Dagster UI behind them, on one port.

The Dagster UI has no login, so it is served on loopback only. There, in development, no key is
required. The public side (`api_only`) is served without the UI, and requires a key wherever it
listens, even on loopback, where a proxy may forward requests of others.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Mount, Route, WebSocketRoute
from starlette.types import Receive, Scope, Send

from runyard.apps.discovery import Discovery
from runyard.apps.trust import signing_keys
from runyard.engine import api_keys
from runyard.errors import DatabaseUnavailable, RunyardError
from runyard.gateway.api import (
    actions,
    checkpoints,
    health,
    history,
    inngest_apps,
    inngest_realtime,
    inngest_signals,
    inngest_v1,
    metrics,
    stream,
    trigger,
)
from runyard.gateway.api import events as event_api
from runyard.gateway.api.inngest_realtime import SOCKET
from runyard.gateway.dev import apps, event_types, functions, invocation, send, send_several
from runyard.gateway.dev import events as event_pages
from runyard.gateway.dev import health as dev_health
from runyard.gateway.dev.dagster_link import PAGES, link_pages
from runyard.gateway.dev.forms import example
from runyard.gateway.dev.page import Action, Page, Site
from runyard.gateway.http.auth import Authenticator
from runyard.gateway.http.background import BackgroundRunner
from runyard.gateway.http.broadcaster import Broadcaster
from runyard.gateway.http.checkpoint_writer import CheckpointWriter
from runyard.gateway.http.cors import Cors
from runyard.gateway.http.endpoint import Endpoint, Services
from runyard.gateway.http.errors import HttpError, error_response
from runyard.gateway.http.event_writer import EventWriter
from runyard.gateway.http.guard import Guard
from runyard.gateway.http.openapi import openapi_routes
from runyard.gateway.http.request_log import RequestLog, log_to_stderr
from runyard.gateway.http.server import serve
from runyard.gateway.http.watcher import InvocationWatcher
from runyard.settings import settings
from runyard.store import database
from runyard.tracing.recording import end_recording

# How long a request waits for a database connection before it gets a 503.
_DATABASE_SECONDS = 2.0
_ROUTING_ERRORS = {
    404: ("not_found", "there is nothing at this path: /docs lists all endpoints"),
    405: (
        "method_not_allowed",
        "this path does not support this method: /docs lists all endpoints",
    ),
}


def endpoints() -> list[Endpoint]:
    """Every endpoint: the engine's, then those of the project's extensions."""
    modules = (
        event_api,
        trigger,
        history,
        actions,
        stream,
        inngest_v1,
        inngest_apps,
        checkpoints,
        inngest_realtime,
        inngest_signals,
        health,
        metrics,
    )
    return [*(endpoint for module in modules for endpoint in module.ENDPOINTS), *_extensions()]


def build_app(dagster_ui: Starlette | None, *, development: bool) -> Starlette:
    """The application.

    Parameters
    ----------
    dagster_ui
        The Dagster UI, which is served behind our routes; None for none.
    development
        Whether no key is required.
    """
    all_endpoints = endpoints()
    routes: list[BaseRoute] = [
        *[endpoint.route() for endpoint in all_endpoints],
        *openapi_routes(all_endpoints, example),
        WebSocketRoute(SOCKET, inngest_realtime.connect),
        *_error_routes(all_endpoints),
    ]
    routes += _dev_page(dagster_ui is not None).routes()
    is_page = partial(_is_page, tuple(routes), dagster_ui)
    if dagster_ui is not None:
        link_pages(dagster_ui.routes)
        routes.append(Mount("/", dagster_ui))
    middleware = [
        Middleware(RequestLog),
        Middleware(
            Guard,
            development=development,
            is_page=is_page,
            sockets=("/graphql", SOCKET) if dagster_ui is not None else (SOCKET,),
        ),
        Middleware(Cors, development=development),
    ]
    return Starlette(
        routes=routes,
        middleware=middleware,
        lifespan=_services(development),
        exception_handlers={HTTPException: _routing_error},
    )


def serve_web(workspace: Path, *, api_only: bool = False) -> int:
    """Serve until stopped.

    Raises `RunyardError` rather than be open to others without a key, or with a malformed one.
    """
    chosen = settings()
    log_to_stderr()
    signing_keys()
    database.wait_for_connection(_DATABASE_SECONDS)
    if api_only:
        _check_keys()
        serve(build_app(None, development=False))
        return 0
    if not chosen.loopback_only:
        raise RunyardError(
            "the Dagster UI has no login and is served on 127.0.0.1 only: use `runyard web"
            " --api-only` here, and a tunnel or a proxy with a login for the UI"
        )
    if "*" in chosen.cors_origins:
        raise RunyardError(
            "RUNYARD_CORS_ORIGINS=* would let every page act here, for in development no key is"
            " required: name the origins"
        )
    _serve_with_dagster_ui(workspace)
    return 0


def _serve_with_dagster_ui(workspace: Path) -> None:
    from dagster_webserver.app import create_app_from_workspace_process_context

    from runyard.dagster_adapter.apps_workspace import AppsTarget
    from runyard.dagster_adapter.internals import (
        WorkspaceFileTarget,
        WorkspaceProcessContext,
        pooled_instance,
        silence_restarts,
    )
    from runyard.processes.stack_files import socket_path

    silence_restarts()
    target = AppsTarget(WorkspaceFileTarget(paths=[str(workspace)]), socket_path("apps"))
    with (
        pooled_instance() as instance,
        WorkspaceProcessContext(instance, target) as context,
    ):
        target.follow(context)
        dagster_ui = create_app_from_workspace_process_context(context)
        serve(build_app(dagster_ui, development=True))


def _check_keys() -> None:
    try:
        keys = api_keys.valid()
    except DatabaseUnavailable:
        return
    if not keys:
        raise RunyardError(
            "there is no valid API key: create one with `runyard keys create NAME --scope send`"
        )


def _services(development: bool) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def services(app: Starlette) -> AsyncIterator[None]:
        async with (
            EventWriter() as writer,
            CheckpointWriter() as checkpoints,
            InvocationWatcher() as watcher,
            BackgroundRunner() as background,
            Broadcaster() as broadcaster,
            Discovery(development=development),
        ):
            app.state.services = Services(
                Authenticator(development),
                writer,
                checkpoints,
                watcher,
                background,
                broadcaster,
            )
            yield
        await run_in_threadpool(end_recording)

    return services


def _is_page(ours: Sequence[BaseRoute], dagster_ui: Starlette | None, scope: Scope) -> bool:
    """Whether a path is a page for people: the dev page, `/docs`, or a page of the Dagster UI.

    The pages of the Dagster UI are what its other routes leave over.
    """
    if any(route.matches(scope)[0] is not Match.NONE for route in ours):
        path: str = scope["path"]
        return path in ("/docs", "/dev") or path.startswith("/dev/")
    others = dagster_ui.routes if dagster_ui is not None else []
    first = next((route for route in others if route.matches(scope)[0] is not Match.NONE), None)
    return isinstance(first, Route) and first.path in PAGES


def _error_routes(all_endpoints: Sequence[Endpoint]) -> list[BaseRoute]:
    """Routes for wrong methods and paths below ours, which must not reach the Dagster UI."""
    methods: dict[str, list[str]] = {}
    for endpoint in all_endpoints:
        methods.setdefault(endpoint.path, []).append(endpoint.method)
    roots = {f"/{path.split('/')[1]}" for path in methods if path.count("/") > 1} - {"/dev"}
    return [
        *[
            Route(path, _ErrorApp(405, {"Allow": ", ".join(allowed)}))
            for path, allowed in methods.items()
        ],
        *[Mount(root, _ErrorApp(404, {})) for root in sorted(roots)],
    ]


class _ErrorApp:
    """An application that responds to every request with the same error."""

    def __init__(self, status: int, headers: Mapping[str, str]) -> None:
        self._status = status
        self._headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the error."""
        code, message = _ROUTING_ERRORS[self._status]
        error = HttpError(self._status, code, message, headers=self._headers)
        await error_response(Request(scope), error)(scope, receive, send)


async def _routing_error(request: Request, error: Exception) -> Response:
    """An error of Starlette itself, in our format."""
    assert isinstance(error, HTTPException)
    code, message = _ROUTING_ERRORS.get(error.status_code, ("refused", str(error.detail)))
    http_error = HttpError(error.status_code, code, message, headers=error.headers)
    return error_response(request, http_error)


def _extensions() -> Sequence[Endpoint]:
    """The endpoints of the project; none outside of a project."""
    module = settings().project_module("http_extensions")
    return list(module.ENDPOINTS) if module is not None else []


def _dev_page(dagster: bool) -> Site:
    """The dev page, with the project's own pages before the last one."""
    modules = (event_pages, functions, apps, send, send_several, invocation)
    own = settings().project_module("pages")
    pages: list[Page] = [page for module in modules for page in module.PAGES]
    pages += event_types.PAGES
    page_actions: list[Action] = [action for module in modules for action in module.ACTIONS]
    pages += [*(own.PAGES if own is not None else ()), *dev_health.PAGES]
    templates = [own.TEMPLATES] if own is not None else []
    return Site(pages, page_actions, templates, dagster, getattr(own, "UPLOADS", None))
