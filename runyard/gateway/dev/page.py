"""The frame of the dev page: what a page and an action are, who may see and do them, how they are answered.

A page has a template `<name>.html`; where it is live, the part that is kept up to date is `<name>.live.html`. An action is a form's POST; it gives
the address to go on at. Both are plain functions of a `Visit`, run in a thread; what they raise becomes a page that says what to do.
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
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from runyard.dagster_adapter.links import to_event, to_function, to_invocation, to_run
from runyard.engine.api_keys import Key, Scope
from runyard.gateway.api.schemas import FINAL
from runyard.gateway.dev import live, session
from runyard.gateway.http.body import read_body
from runyard.gateway.http.errors import HttpError, as_http_error
from runyard.gateway.http.templates import as_pretty_json, environment
from runyard.text.redaction import redactor

_HERE = Path(__file__).parent
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; connect-src 'self'; frame-src 'self';"
        " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    # Not `no-referrer`: with it browsers send forms without their origin.
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_LOGIN = "/dev/login"
_MAX_SHOWN = 50_000
# An event of 512 KiB, every byte of it as % and two digits, with its other fields; what anybody may send is a key.
_MAX_FORM_BYTES = 4 * 1024 * 1024
_MAX_LOGIN_BYTES = 16 * 1024
_MAX_FIELDS = 10_000
Values = Mapping[str, Any]


@dataclass(frozen=True)
class Visit:
    """A request to the dev page by someone who may make it.

    Attributes
    ----------
    query, form
        The fields of the query and of a POST, each with its values.
    caller
        The key that it comes with.
    """

    request: Request
    caller: Key
    query: Mapping[str, Sequence[str]]
    form: Mapping[str, Sequence[str]]

    def path(self, name: str) -> str:
        """A parameter of the path."""
        return str(self.request.path_params[name])

    def query_value(self, name: str) -> str:
        """The text of a field of the query, without blanks around it; empty where there is none."""
        return self.query.get(name, [""])[0].strip()

    def form_value(self, name: str) -> str:
        """The text of a field of the form, empty where there is none."""
        return self.form.get(name, [""])[0]

    def in_background(self, pieces: Iterator[object]) -> None:
        """Do all the pieces of an iterator behind the answer."""
        from_thread.run_sync(self.request.app.state.services.background.run, pieces)


@dataclass(frozen=True)
class Page:
    """One page.

    Parameters
    ----------
    path
        Its path below `/dev`: `/events/{id}`; empty for the first one.
    template
        The name of its template, without `.html`; empty where `look` always makes the answer itself.
    view
        Gives the template's values, or an answer of its own.
    menu
        What the menu calls it; empty where it does not stand there.
    refresh_seconds
        Seconds between two looks at its live part; None where it has none.
    """

    path: str
    template: str
    view: Callable[[Visit], Values | Response]
    menu: str = ""
    refresh_seconds: float | None = None


@dataclass(frozen=True)
class PageResponse:
    """A page that an action answers with: its template, without `.html`, its values, its status."""

    template: str
    values: Values
    status: int


@dataclass(frozen=True)
class Action:
    """What a form does: `do` gives the path to go on at, or a page."""

    path: str
    handler: Callable[[Visit], str | PageResponse]
    scope: Scope = "manage"


@dataclass
class Site:
    """All pages and actions, with their templates.

    Parameters
    ----------
    pages, actions
        In the order of the menu.
    templates
        Folders of templates of the project's own.
    dagster
        Whether the Dagster UI is served beside them.
    """

    pages: Sequence[Page]
    actions: Sequence[Action]
    templates: Sequence[Path]
    dagster: bool
    _environment: Environment = field(init=False)

    def __post_init__(self) -> None:
        made = environment([_HERE / "pages", *self.templates], _shown_json)
        made.finalize = _without_secrets
        made.globals |= {
            "menu": [page for page in self.pages if page.menu],
            "dagster": self.dagster,
            "to_event": to_event,
            "to_invocation": to_invocation,
            "to_function": to_function,
            "to_run": to_run,
            "static": _static,
            "final": FINAL,
        }
        self._environment = made

    def routes(self) -> list[BaseRoute]:
        """The routes of everything below `/dev`."""
        found: list[BaseRoute] = [Mount("/dev/static", StaticFiles(directory=_HERE / "static"))]
        found += [
            Route(_LOGIN, self._log_in, methods=["GET", "POST"]),
            Route("/dev/logout", self._log_out, methods=["POST"]),
        ]
        found += [
            Route(f"/dev{page.path}", partial(self._show, page), methods=["GET"])
            for page in self.pages
        ]
        found += [
            Route(f"/dev{action.path}", partial(self._do, action), methods=["POST"])
            for action in self.actions
        ]
        return [*found, Mount("/dev", self._nothing_here)]

    def render(self, template: str, request: Request, caller: Key, values: Values) -> str:
        """A template as HTML."""
        known = {
            "token": session.token(request),
            "path": request.url.path,
            "scopes": caller.scopes,
            "key_name": None if _development(request) else caller.name,
            "without_secrets": redactor(),
        }
        return self._environment.get_template(template).render({**known, **values})

    async def _show(self, page: Page, request: Request) -> Response:
        request.state.endpoint = f"GET /dev{page.path}"
        try:
            caller = await session.visitor(request, "read")
            visit = Visit(request, caller, parse_qs(request.url.query, keep_blank_values=True), {})
            if page.refresh_seconds is not None and live.is_stream_request(request):
                return live.stream(
                    partial(self._live_part, page, visit),
                    page.refresh_seconds,
                    partial(session.still_valid, request, caller),
                )
            found = await run_in_threadpool(page.view, visit)
            if isinstance(found, Response):
                return found
            return self._answer(
                request,
                await run_in_threadpool(
                    self.render, f"{page.template}.html", request, caller, found
                ),
            )
        except Exception as error:
            return self._refuse(request, error)

    def _live_part(self, page: Page, visit: Visit) -> str:
        found = page.view(visit)
        assert not isinstance(found, Response), "a live page is made of its template"
        return self.render(f"{page.template}.live.html", visit.request, visit.caller, found)

    async def _do(self, action: Action, request: Request) -> Response:
        request.state.endpoint = f"POST /dev{action.path}"
        try:
            caller = await session.visitor(request, action.scope)
            form = await _form(request, _MAX_FORM_BYTES, caller.id)
            found = await run_in_threadpool(action.handler, Visit(request, caller, {}, form))
            if isinstance(found, str):
                return RedirectResponse(found, 303, HEADERS)
            html = await run_in_threadpool(
                self.render, f"{found.template}.html", request, caller, found.values
            )
            return self._answer(request, html, found.status)
        except Exception as error:
            return self._refuse(request, error)

    def _answer(self, request: Request, html: str, status: int = 200) -> Response:
        made = HTMLResponse(html, status, HEADERS)
        if session.cookie(request) is None:
            session.begin(request, made, request.state.session)
        return made

    def _refuse(self, request: Request, error: Exception) -> Response:
        problem = as_http_error(error)
        if problem.status == 401 and not live.is_stream_request(request):
            return self._ask_for_key(request, "")
        # An action has no page of its own: its form stands on the one above it.
        back = request.url.path if request.method == "GET" else request.url.path.rpartition("/")[0]
        html = self.render(
            "error.html",
            request,
            _NOBODY,
            {
                "problem": problem,
                "message": str(problem),
                "back": back,
                "request_id": request.state.request_id,
            },
        )
        made = self._answer(request, html, problem.status)
        made.headers.update(problem.headers)
        return made

    async def _nothing_here(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        if request.url.path == "/dev/":
            await RedirectResponse("/dev", 307)(scope, receive, send)
            return
        problem = HttpError(404, "not_found", "there is no such page: begin with the events")
        await self._refuse(request, problem)(scope, receive, send)

    def _ask_for_key(self, request: Request, message: str) -> Response:
        # What a form was to do is not done by going on at its address.
        to = (
            f"{request.url.path}?{request.url.query}".rstrip("?")
            if request.method == "GET" and request.url.path != _LOGIN
            else "/dev"
        )
        return self._answer(
            request,
            self.render("login.html", request, _NOBODY, {"message": message, "to": to}),
            401,
        )

    async def _log_in(self, request: Request) -> Response:
        request.state.endpoint = f"{request.method} {_LOGIN}"
        if request.method == "GET":
            return self._ask_for_key(request, "")
        try:
            form = await _form(request, _MAX_LOGIN_BYTES)
            given = form.get("key", [""])[0].strip()
            await request.app.state.services.authenticator.authenticate(
                request, "read", given=given
            )
        except Exception as error:
            return self._ask_for_key(request, str(as_http_error(error)))
        to = form.get("to", ["/dev"])[0]
        made = RedirectResponse(
            to if to == "/dev" or to.startswith(("/dev/", "/dev?")) else "/dev", 303, HEADERS
        )
        session.begin(request, made, given)
        return made

    async def _log_out(self, request: Request) -> Response:
        request.state.endpoint = "POST /dev/logout"
        try:
            await _form(request, _MAX_LOGIN_BYTES)
        except HttpError as problem:
            return self._refuse(request, problem)
        made = RedirectResponse(_LOGIN, 303, HEADERS)
        session.end(made)
        return made


_NOBODY = Key("nobody", "nobody", b"", ())


@pass_context
def _shown_json(context: Context, value: object) -> str:
    """JSON with indents, without secrets, and cut where nobody would read it."""
    text: str = context["without_secrets"](as_pretty_json(value))
    return (
        text
        if len(text) <= _MAX_SHOWN
        else f"{text[:_MAX_SHOWN]}\n... and {len(text) - _MAX_SHOWN:,} characters more"
    )


@cache
def _static(name: str) -> str:
    """The address of a file that belongs to the pages: another one when it has changed, so that no browser uses an old one."""
    return f"/dev/static/{name}?{hashlib.blake2b((_HERE / 'static' / name).read_bytes(), digest_size=6).hexdigest()}"


@pass_context
def _without_secrets(context: Context, value: object) -> object:
    """What every expression of a template goes through: text that is no HTML of our own loses the secrets in it."""
    return (
        context["without_secrets"](value)
        if isinstance(value, str) and not isinstance(value, Markup)
        else value
    )


async def _form(request: Request, most: int, key: str | None = None) -> Mapping[str, Sequence[str]]:
    """The fields of a form that one of our pages has sent, `most` bytes at most, by the owner of a key or anybody; raises `HttpError`."""
    body = await read_body(request, most, key)
    try:
        if len(body) > _MAX_LOGIN_BYTES:
            form = await run_in_threadpool(_fields, body)
        else:
            form = _fields(body)
    except ValueError:
        raise HttpError(
            400,
            "invalid_form",
            "this is no form that one of our pages has sent: open the page again",
        ) from None
    session.check_form(request, form.get(session.TOKEN_FIELD, [""])[0])
    return form


def _fields(body: bytes) -> dict[str, list[str]]:
    return parse_qs(body.decode(), keep_blank_values=True, max_num_fields=_MAX_FIELDS)


def _development(request: Request) -> bool:
    return bool(request.app.state.services.authenticator.development)
