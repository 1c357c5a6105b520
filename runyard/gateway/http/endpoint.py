"""An endpoint: its path, who may call it, what it takes and gives; the route and its description are both made of it.

A handler gets a `Call` whose query and body have been checked, and returns a model, or a `Response` of its own. Whatever it raises becomes an
answer in the one form for errors.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from runyard.engine.api_keys import Key, Scope
from runyard.gateway.http import body_memory
from runyard.gateway.http.auth import Authenticator, check_may_send
from runyard.gateway.http.background import BackgroundRunner
from runyard.gateway.http.body import (
    LARGE_BYTES,
    MAX_BODY_BYTES,
    client_errors,
    parse_in_thread,
    parse_json,
    read_body,
)
from runyard.gateway.http.errors import ANSWER_HEADERS, HttpError, as_http_error, error_response
from runyard.gateway.http.event_writer import EventWriter
from runyard.gateway.http.watcher import InvocationWatcher

# Of a body with a model: what is wrong with each of them is written down before the first is told.
_MAX_VALUES = 50_000
# An event of 512 KiB can be three times as long where every letter is written as \u and four digits.
_MAX_MODEL_BYTES = 2 * 1024 * 1024


def _is_written_out(value: object) -> object:
    """Refuse a number, which pydantic would take for seconds or milliseconds."""
    if isinstance(value, str) and "-" not in value[1:]:
        raise ValueError("write it as 2026-01-31T09:00:00Z")
    return value


# A time with its zone in a query, as ISO 8601 writes it. (In a body AwareDatetime alone is as strict.)
Timestamp = Annotated[AwareDatetime, BeforeValidator(_is_written_out)]


class Query(BaseModel):
    """The base of every query: unknown parameters are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Body(BaseModel):
    """The base of every body: unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Services:
    """What the handlers of one web process share."""

    authenticator: Authenticator
    writer: EventWriter
    watcher: InvocationWatcher
    background: BackgroundRunner


@dataclass
class Call:
    """A request that was let in.

    Attributes
    ----------
    request
        The request itself.
    caller
        The key that it came with.
    query, body
        The endpoint's own models; `raw` is the body as it came.
    """

    request: Request
    caller: Key
    query: Any
    body: Any
    raw: bytes

    @property
    def services(self) -> Services:
        """What this process has for its handlers."""
        services: Services = self.request.app.state.services
        return services

    def path(self, name: str) -> str:
        """A parameter of the path."""
        return str(self.request.path_params[name])

    def check_may_send(self, event: str) -> None:
        """Raise `HttpError` unless the caller's key may send events of this name."""
        check_may_send(self.caller, event)


@dataclass(frozen=True)
class Endpoint:
    """One method on one path.

    Parameters
    ----------
    method, path, handler
        The path as Starlette writes it: `/api/events/{id}`.
    group, summary
        Where it stands in the description, and what it does in a sentence.
    scope
        What the caller's key must be allowed; None for what anybody may ask.
    query, body
        The models of the query and the body; without `body` the handler reads the raw one.
    response, status
        The model and status of an answer that went well; None for one that is no JSON.
    other_responses
        Other answers, by status: what they mean, and their model (None for no content).
    body_schema
        What a body without a model is, for the description: a JSON Schema.
    media_types
        The media types of answers that are no JSON.
    headers
        Request headers that mean something here, for the description.
    errors
        Statuses of errors besides those that every endpoint has.
    signed
        Whether a signature will do instead of a key.
    error_fields
        Fields that its errors have besides.
    max_bytes
        How large a body may be: 10 MiB where None, and 2 MiB of one with a model, which has one event at most.
    """

    method: str
    path: str
    handler: Callable[[Call], Awaitable[BaseModel | Response]]
    group: str
    summary: str
    scope: Scope | None
    query: type[BaseModel] = Query
    body: type[BaseModel] | None = None
    response: type[BaseModel] | None = None
    status: int = 200
    other_responses: Mapping[int, tuple[str, type[BaseModel] | None]] = field(
        default_factory=dict[int, tuple[str, type[BaseModel] | None]]
    )
    body_schema: Mapping[str, Any] | None = None
    media_types: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    errors: tuple[int, ...] = ()
    signed: bool = False
    error_fields: Mapping[str, Any] = field(default_factory=dict[str, Any])
    max_bytes: int | None = None

    def route(self) -> Route:
        """The route."""
        return Route(
            self.path, self._answer, methods=[self.method], name=f"{self.method} {self.path}"
        )

    async def _answer(self, request: Request) -> Response:
        request.state.endpoint = f"{self.method} {self.path}"
        try:
            found = await self.handler(await self._let_in(request))
        except Exception as error:
            return error_response(request, as_http_error(error), self.error_fields)
        return found if isinstance(found, Response) else json_response(found, self.status)

    async def _let_in(self, request: Request) -> Call:
        access: Authenticator = request.app.state.services.authenticator
        # A body is read for a signature over it only where there is one: nobody without a key makes us read.
        raw = (
            await read_body(request, self._most_bytes)
            if self.signed and "webhook-signature" in request.headers
            else None
        )
        caller = (
            await access.authenticate(request, self.scope, body=raw)
            if self.scope is not None
            else Key("anybody", "anybody", b"", ())
        )
        if raw is not None:
            body_memory.sender_identified(request.state, caller.id)
        elif self.method in ("POST", "PUT", "PATCH"):
            raw = await read_body(
                request, self._most_bytes, caller.id if self.scope is not None else None
            )
        with client_errors():
            query = self.query.model_validate(_single(request))
        body = (
            await parse_in_thread(self._body, raw)
            if raw is not None and len(raw) > LARGE_BYTES
            else self._body(raw or b"{}")
        )
        return Call(request, caller, query, body, raw or b"")

    @property
    def _most_bytes(self) -> int:
        return self.max_bytes or (MAX_BODY_BYTES if self.body is None else _MAX_MODEL_BYTES)

    def _body(self, raw: bytes) -> BaseModel | None:
        if self.body is None:
            return None
        with client_errors():
            parse_json(raw, _MAX_VALUES)  # pydantic's own parser takes more than JSON
            return self.body.model_validate_json(raw, strict=True)


def json_response(model: BaseModel, status: int = 200) -> Response:
    """A model as a JSON answer."""
    return Response(to_json(model), status, media_type="application/json", headers=ANSWER_HEADERS)


def event_stream(messages: AsyncIterator[bytes]) -> Response:
    """Server-sent events, which nobody on the way is to keep or gather."""
    return StreamingResponse(
        messages,
        media_type="text/event-stream",
        headers={**ANSWER_HEADERS, "X-Accel-Buffering": "no"},
    )


def not_found(what: str, given: object) -> HttpError:
    """There is no such thing."""
    return HttpError(404, "not_found", f"there is no {what} {given}")


def _single(request: Request) -> dict[str, str]:
    """The query as one value a name; raises `HttpError` for a name that comes twice."""
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name in found:
            raise HttpError(400, "invalid_field", "comes twice; give it once", name)
        found[name] = value
    return found
