"""The framework of the dev page: pages and actions, who may use them, how they are rendered.

A page has a template `<name>.html`; on a live page, the part that is kept up to date is
`<name>.live.html`. An action handles the POST of a form, and returns the path to redirect to. Both
are plain functions of a `Visit`, run in a thread; what they raise becomes an error page.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from anyio import from_thread
from jinja2 import Environment, pass_context
from jinja2.runtime import Context
from markupsafe import Markup
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from runyard.dagster_adapter.links import to_event, to_function, to_invocation, to_run
from runyard.engine.api_keys import Key, Scope
from runyard.engine.status import FINAL
from runyard.gateway.dev import live, session, uploads
from runyard.gateway.dev.uploads import Uploads
from runyard.gateway.http.body import read_body
from runyard.gateway.http.errors import RESPONSE_HEADERS, HttpError, as_http_error, error_response
from runyard.gateway.http.templates import as_pretty_json, environment
from runyard.processes.code_check import remembered_problem
from runyard.text.redaction import redactor

_HERE = Path(__file__).parent
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
        " media-src 'self'; connect-src 'self'; frame-src 'self'; form-action 'self';"
        " base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    # Not `no-referrer`, with which browsers send forms without an origin.
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_LOGIN = "/dev/login"
_TOKEN_HEADER = "x-runyard-token"  # noqa: S105 (the name of a header)
# How often a page without a live part learns whether the code loads.
_CODE_SECONDS = 1.0
# Characters of a JSON value that a page shows.
_MAX_SHOWN = 50_000
# Enough for an event of 512 KiB with every byte percent-encoded, and its other fields.
_MAX_FORM_BYTES = 4 * 1024 * 1024
# The login form, which anybody may send, has only a key.
_MAX_LOGIN_BYTES = 16 * 1024
_MAX_FIELDS = 10_000
# What Inngest's SDKs get from the start page, when they look for a development server.
_FOR_PROGRAMS = {"version": "runyard", "functions": [], "handlers": [], "startOpts": {}}
Values = Mapping[str, Any]


@dataclass(frozen=True)
class Visit:
    """An authorized request to the dev page.

    Attributes
    ----------
    caller
        The visitor's key.
    query, form
        The fields of the query and of a form, each with its values.
    """

    request: Request
    caller: Key
    query: Mapping[str, Sequence[str]]
    form: Mapping[str, Sequence[str]]

    def path(self, name: str) -> str:
        """A path parameter."""
        return str(self.request.path_params[name])

    def query_value(self, name: str) -> str:
        """A field of the query, stripped; empty if it is missing."""
        return self.query.get(name, [""])[0].strip()

    def form_value(self, name: str) -> str:
        """A field of the form; empty if it is missing."""
        return self.form.get(name, [""])[0]

    def in_background(self, pieces: Iterator[object]) -> None:
        """Exhaust an iterator in the background."""
        from_thread.run_sync(self.request.app.state.services.background.run, pieces)


@dataclass(frozen=True)
class Page:
    """A page.

    Parameters
    ----------
    path
        Its path below `/dev`: `/events/{id}`; empty for the start page.
    template
        The name of its template, without `.html`; empty if `view` always returns a response.
    view
        Returns the values for the template, or a response.
    menu
        Its name in the menu; empty if it is not in the menu.
    refresh_seconds
        Seconds between two renderings of its live part; None if it has none.
    """

    path: str
    template: str
    view: Callable[[Visit], Values | Response]
    menu: str = ""
    refresh_seconds: float | None = None


@dataclass(frozen=True)
class PageResponse:
    """A page as the result of an action: its template without `.html`, values and status."""

    template: str
    values: Values
    status: int


@dataclass(frozen=True)
class Action:
    """Handles a form: `handler` returns the path to redirect to, or a page."""

    path: str
    handler: Callable[[Visit], str | PageResponse]
    scope: Scope = "manage"


@dataclass
class Site:
    """All pages and actions with their templates.

    Parameters
    ----------
    pages, actions
        In the order of the menu.
    templates
        Folders with templates of the project's own.
    dagster
        Whether the Dagster UI is served next to them.
    uploads
        How files for the fields of events are kept; None if the project keeps none.
    """

    pages: Sequence[Page]
    actions: Sequence[Action]
    templates: Sequence[Path]
    dagster: bool
    uploads: Uploads | None = None
    _environment: Environment = field(init=False)

    def __post_init__(self) -> None:
        self._environment = environment([_HERE / "pages", *self.templates], _shown_json)
        self._environment.filters["ending"] = _ending
        self._environment.finalize = _without_secrets
        self._environment.globals |= {
            "menu": [page for page in self.pages if page.menu],
            "dagster": self.dagster,
            "uploads": self.uploads is not None,
            "to_event": to_event,
            "to_invocation": to_invocation,
            "to_function": to_function,
            "to_run": to_run,
            "static": _static,
            "final": FINAL,
        }

    def routes(self) -> list[BaseRoute]:
        """The routes of everything below `/dev`."""
        routes: list[BaseRoute] = [Mount("/dev/static", StaticFiles(directory=_HERE / "static"))]
        routes += [
            Route(_LOGIN, self._log_in, methods=["GET", "POST"]),
            Route("/dev/logout", self._log_out, methods=["POST"]),
            Route("/dev/code", self._stream_code, methods=["GET"]),
            *([Route("/dev/uploads", self._upload, methods=["POST"])] if self.uploads else []),
        ]
        routes += [
            Route(f"/dev{page.path}", partial(self._show, page), methods=["GET"])
            for page in self.pages
        ]
        routes += [
            Route(f"/dev{action.path}", partial(self._do, action), methods=["POST"])
            for action in self.actions
        ]
        return [*routes, Mount("/dev", self._not_found)]

    def render(self, template: str, request: Request, caller: Key, values: Values) -> str:
        """A template as HTML."""
        common = {
            "token": session.token(request),
            "path": request.url.path,
            "scopes": caller.scopes,
            "key_name": None if _development(request) else caller.name,
            "without_secrets": redactor(),
            "code_problem": remembered_problem(),
        }
        return self._environment.get_template(template).render({**common, **values})

    async def _show(self, page: Page, request: Request) -> Response:
        request.state.endpoint = f"GET /dev{page.path}"
        if not page.path and _is_for_a_program(request):
            return JSONResponse(_FOR_PROGRAMS, headers=RESPONSE_HEADERS)
        try:
            caller = await session.visitor(request, "read")
            visit = Visit(request, caller, parse_qs(request.url.query, keep_blank_values=True), {})
            if page.refresh_seconds is not None and live.is_stream_request(request):
                return live.stream(
                    partial(self._live_parts, page, visit),
                    page.refresh_seconds,
                    partial(session.still_valid, request, caller),
                )
            values = await run_in_threadpool(page.view, visit)
            if isinstance(values, Response):
                return values
            html = await run_in_threadpool(
                self.render, f"{page.template}.html", request, caller, values
            )
            return self._respond(request, html)
        except Exception as error:
            return self._error(request, error)

    def _live_parts(self, page: Page, visit: Visit) -> live.Parts:
        values = page.view(visit)
        assert not isinstance(values, Response), "a live page is rendered from its template"
        html = self.render(f"{page.template}.live.html", visit.request, visit.caller, values)
        return {"message": html, **self._code_part(visit.request, visit.caller)}

    def _code_part(self, request: Request, caller: Key) -> live.Parts:
        return {"code": self.render("code_problem.html", request, caller, {})}

    async def _stream_code(self, request: Request) -> Response:
        """The stream of a page without a live part: whether the project's code loads."""
        request.state.endpoint = "GET /dev/code"
        try:
            caller = await session.visitor(request, "read")
            if not live.is_stream_request(request):
                return RedirectResponse("/dev/health", 307, HEADERS)
            return live.stream(
                partial(self._code_part, request, caller),
                _CODE_SECONDS,
                partial(session.still_valid, request, caller),
            )
        except Exception as error:
            return self._error(request, error)

    async def _do(self, action: Action, request: Request) -> Response:
        request.state.endpoint = f"POST /dev{action.path}"
        try:
            caller = await session.visitor(request, action.scope)
            form = await _form(request, _MAX_FORM_BYTES, caller.id)
            result = await run_in_threadpool(action.handler, Visit(request, caller, {}, form))
            if isinstance(result, str):
                return RedirectResponse(result, 303, HEADERS)
            html = await run_in_threadpool(
                self.render, f"{result.template}.html", request, caller, result.values
            )
            return self._respond(request, html, result.status)
        except Exception as error:
            return self._error(request, error)

    async def _upload(self, request: Request) -> Response:
        """Keep a file; the response is JSON, for the script of the send form."""
        request.state.endpoint = "POST /dev/uploads"
        assert self.uploads is not None, "there is no route otherwise"
        try:
            await session.visitor(request, "send")
            session.check_form(request, request.headers.get(_TOKEN_HEADER, ""))
            value = await uploads.save(request, self.uploads)
        except Exception as error:
            return error_response(request, as_http_error(error))
        return JSONResponse({"value": value}, 201, RESPONSE_HEADERS)

    def _respond(self, request: Request, html: str, status: int = 200) -> Response:
        response = HTMLResponse(html, status, HEADERS)
        if session.cookie(request) is None:
            session.begin(request, response, request.state.session)
        return response

    def _error(self, request: Request, error: Exception) -> Response:
        http_error = as_http_error(error)
        if http_error.status == 401 and not live.is_stream_request(request):
            return self._ask_for_key(request, "")
        # An action has no page of its own: its form is on the page one level up.
        back = request.url.path if request.method == "GET" else request.url.path.rpartition("/")[0]
        values = {
            "status": http_error.status,
            "message": str(http_error),
            "back": back,
            "request_id": request.state.request_id,
        }
        html = self.render("error.html", request, _NOBODY, values)
        response = self._respond(request, html, http_error.status)
        response.headers.update(http_error.headers)
        return response

    async def _not_found(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        if request.url.path == "/dev/":
            await RedirectResponse("/dev", 307)(scope, receive, send)
            return
        error = HttpError(404, "not_found", "there is no such page: start from the events")
        await self._error(request, error)(scope, receive, send)

    def _ask_for_key(self, request: Request, message: str) -> Response:
        # After the login of a POST there is nothing to return to: its form has not been handled.
        to = "/dev"
        if request.method == "GET" and request.url.path != _LOGIN:
            to = f"{request.url.path}?{request.url.query}".rstrip("?")
        html = self.render("login.html", request, _NOBODY, {"message": message, "to": to})
        return self._respond(request, html, 401)

    async def _log_in(self, request: Request) -> Response:
        request.state.endpoint = f"{request.method} {_LOGIN}"
        if request.method == "GET":
            return self._ask_for_key(request, "")
        try:
            form = await _form(request, _MAX_LOGIN_BYTES)
            key = form.get("key", [""])[0].strip()
            authenticator = request.app.state.services.authenticator
            await authenticator.authenticate(request, "read", cookie=key)
        except Exception as error:
            return self._ask_for_key(request, str(as_http_error(error)))
        to = form.get("to", ["/dev"])[0]
        if to != "/dev" and not to.startswith(("/dev/", "/dev?")):
            to = "/dev"
        response = RedirectResponse(to, 303, HEADERS)
        session.begin(request, response, key)
        return response

    async def _log_out(self, request: Request) -> Response:
        request.state.endpoint = "POST /dev/logout"
        try:
            await _form(request, _MAX_LOGIN_BYTES)
        except HttpError as error:
            return self._error(request, error)
        response = RedirectResponse(_LOGIN, 303, HEADERS)
        session.end(response)
        return response


_NOBODY = Key("nobody", "nobody", b"", ())


@pass_context
def _shown_json(context: Context, value: object) -> str:
    """Indented JSON without secrets, truncated if it is very long."""
    text: str = context["without_secrets"](as_pretty_json(value))
    if len(text) <= _MAX_SHOWN:
        return text
    return f"{text[:_MAX_SHOWN]}\n... and {len(text) - _MAX_SHOWN:,} characters more"


@pass_context
def _ending(context: Context, text: str, most: int) -> str:
    """The end of a text without secrets, which a cut could leave a part of."""
    clean: str = context["without_secrets"](text)
    return clean if len(clean) <= most else f"…{clean[-most:]}"


@cache
def _static(name: str) -> str:
    """The URL of a static file, with a digest so that no browser uses an outdated one."""
    content = (_HERE / "static" / name).read_bytes()
    return f"/dev/static/{name}?{hashlib.blake2b(content, digest_size=6).hexdigest()}"


@pass_context
def _without_secrets(context: Context, value: object) -> object:
    """Redact the value of a template expression, unless it is HTML of our own."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return context["without_secrets"](value)
    return value


async def _form(
    request: Request, max_bytes: int, key: str | None = None
) -> Mapping[str, Sequence[str]]:
    """The fields of a form of one of our pages; raises `HttpError`.

    `key` is the id of the visitor's key; None if the visitor is not identified.
    """
    body = await read_body(request, max_bytes, key)
    try:
        if len(body) > _MAX_LOGIN_BYTES:
            form = await run_in_threadpool(_fields, body)
        else:
            form = _fields(body)
    except ValueError:
        message = "this is not a form of the dev page: open the page again"
        raise HttpError(400, "invalid_form", message) from None
    session.check_form(request, form.get(session.TOKEN_FIELD, [""])[0])
    return form


def _fields(body: bytes) -> dict[str, list[str]]:
    return parse_qs(body.decode(), keep_blank_values=True, max_num_fields=_MAX_FIELDS)


def _is_for_a_program(request: Request) -> bool:
    """Whether an SDK looks whether a development server is here, and no browser."""
    accept = request.headers.get("accept", "*/*")
    is_for_people = "text/html" in accept or live.is_stream_request(request) or request.url.query
    return _development(request) and not is_for_people


def _development(request: Request) -> bool:
    return bool(request.app.state.services.authenticator.development)
