"""Puts the web process together: our endpoints first, the Dagster UI behind them, one port.

Dagster's UI has no log-in, so it is served on loopback only. There, in development, no key is asked for; the door that faces others
(`api_only`) stands alone and asks for one wherever it listens, for a proxy may stand before it.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Mount, Route
from starlette.types import Receive, Scope, Send

from runyard.engine import api_keys
from runyard.errors import DatabaseUnavailable, RunyardError
from runyard.gateway.api import (
    actions,
    health,
    history,
    inngest_v1,
    metrics,
    stream,
    trigger,
)
from runyard.gateway.api import events as event_endpoints
from runyard.gateway.dev import events as event_pages
from runyard.gateway.dev import functions, invocation, send
from runyard.gateway.dev import health as dev_health
from runyard.gateway.dev.page import Action, Page, Site
from runyard.gateway.http.auth import Authenticator
from runyard.gateway.http.background import BackgroundRunner
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

# A client of the HTTP API hears soon that the database is away.
_DATABASE_SECONDS = 2.0
_CODES = {
    404: ("not_found", "there is nothing here: /docs lists what there is"),
    405: ("method_not_allowed", "this method is not for this path: /docs lists those that are"),
}


def endpoints() -> list[Endpoint]:
    """Every endpoint: the engine's, then those of the project's extensions."""
    groups = [
        module.ENDPOINTS
        for module in (
            event_endpoints,
            trigger,
            history,
            actions,
            stream,
            inngest_v1,
            health,
            metrics,
        )
    ]
    return [endpoint for group in [*groups, _extensions()] for endpoint in group]


def build_app(dagster_ui: Starlette | None, *, development: bool) -> Starlette:
    """The application; `dagster_ui` is served behind our routes where it is given, and in `development` no key is asked for."""
    found = endpoints()
    routes: list[BaseRoute] = [
        *[endpoint.route() for endpoint in found],
        *openapi_routes(found),
        *_refusals(found),
    ]
    routes += _dev_page(dagster_ui is not None).routes()
    is_page = partial(_is_page, tuple(routes), dagster_ui)
    if dagster_ui is not None:
        routes.append(Mount("/", dagster_ui))
    middleware = [
        Middleware(RequestLog),
        Middleware(
            Guard,
            development=development,
            is_page=is_page,
            sockets=("/graphql",) if dagster_ui is not None else (),
        ),
        Middleware(Cors, development=development),
    ]
    return Starlette(
        routes=routes,
        middleware=middleware,
        lifespan=_services(development),
        exception_handlers={HTTPException: _refuse},
    )


def serve_web(workspace: Path, *, api_only: bool = False) -> int:
    """Serve until stopped; raises `RunyardError` for an address that can be reached from outside without a key."""
    chosen = settings()
    log_to_stderr()
    database.wait_for_connection(_DATABASE_SECONDS)
    if api_only:
        _check_keys()
        serve(build_app(None, development=False))
        return 0
    if not chosen.loopback_only:
        raise RunyardError(
            "the Dagster UI has no log-in and is served on 127.0.0.1 only: use `runyard web --api-only` here, and a tunnel or a proxy with a log-in for the UI"
        )
    if "*" in chosen.cors_origins:
        raise RunyardError(
            "RUNYARD_CORS_ORIGINS=* would let every page act here, for in development no key is asked for: name the origins"
        )
    from dagster_webserver.app import create_app_from_workspace_process_context

    from runyard.dagster_adapter.internals import (
        WorkspaceFileTarget,
        WorkspaceProcessContext,
        pooled_instance,
        silence_restarts,
    )

    silence_restarts()
    with (
        pooled_instance() as instance,
        WorkspaceProcessContext(instance, WorkspaceFileTarget(paths=[str(workspace)])) as context,
    ):
        serve(
            build_app(create_app_from_workspace_process_context(context), development=True),
            websockets=True,
        )
    return 0


def _check_keys() -> None:
    try:
        known = api_keys.valid()
    except DatabaseUnavailable:
        return
    if not known:
        raise RunyardError(
            "there is no key that this door could take: make one with `runyard keys create NAME --scope send`"
        )


def _services(development: bool) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def services(app: Starlette) -> AsyncIterator[None]:
        async with (
            EventWriter() as writer,
            InvocationWatcher() as watcher,
            BackgroundRunner() as background,
        ):
            app.state.services = Services(Authenticator(development), writer, watcher, background)
            yield

    return services


def _is_page(ours: Sequence[BaseRoute], dagster_ui: Starlette | None, scope: Scope) -> bool:
    """Whether a path is a page for people: of the dev page, the description, or of the Dagster UI what all its other routes leave over."""
    if any(route.matches(scope)[0] is not Match.NONE for route in ours):
        path: str = scope["path"]
        return path in ("/docs", "/dev") or path.startswith("/dev/")
    others = dagster_ui.routes if dagster_ui is not None else []
    first = next((route for route in others if route.matches(scope)[0] is not Match.NONE), None)
    return isinstance(first, Route) and first.path in ("/", "/{path:path}")


def _refusals(found: Sequence[Endpoint]) -> list[BaseRoute]:
    """What is not ours under our paths is refused in our form, and does not fall through to the Dagster UI."""
    methods: dict[str, list[str]] = {}
    for endpoint in found:
        methods.setdefault(endpoint.path, []).append(endpoint.method)
    roots = sorted({f"/{path.split('/')[1]}" for path in methods if path.count("/") > 1})
    return [
        *[
            Route(path, _Refusal(405, {"Allow": ", ".join(allowed)}))
            for path, allowed in methods.items()
        ],
        *[Mount(root, _Refusal(404, {})) for root in roots],
    ]


class _Refusal:
    """An application that refuses every request."""

    def __init__(self, status: int, headers: Mapping[str, str]) -> None:
        self._status = status
        self._headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse."""
        code, message = _CODES[self._status]
        await error_response(
            Request(scope), HttpError(self._status, code, message, headers=self._headers)
        )(scope, receive, send)


async def _refuse(request: Request, error: Exception) -> Response:
    """What Starlette itself refuses, in our form."""
    assert isinstance(error, HTTPException)
    code, message = _CODES.get(error.status_code, ("refused", str(error.detail)))
    return error_response(
        request, HttpError(error.status_code, code, message, headers=error.headers)
    )


def _extensions() -> Sequence[Endpoint]:
    """The endpoints of the project, none for a process outside of one."""
    module = settings().project_module("http_extensions")
    return list(module.ENDPOINTS) if module is not None else []


def _dev_page(dagster: bool) -> Site:
    """The dev page, with the project's own pages in front of the last one."""
    modules = (event_pages, functions, send, invocation)
    own = settings().project_module("pages")
    pages: list[Page] = [page for module in modules for page in module.PAGES]
    page_actions: list[Action] = [action for module in modules for action in module.ACTIONS]
    pages += [*(own.PAGES if own is not None else ()), *dev_health.PAGES]
    return Site(pages, page_actions, [own.TEMPLATES] if own is not None else [], dagster)
