"""An endpoint: its path, who may call it, its request and its response.

Both the route and the OpenAPI operation are made from it. A handler gets a `Call` with a validated
query and body, and returns a model or a `Response` of its own. Whatever it raises becomes a
response in the one format of errors.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
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
from runyard.gateway.http.broadcaster import Broadcaster
from runyard.gateway.http.checkpoint_writer import CheckpointWriter
from runyard.gateway.http.errors import RESPONSE_HEADERS, HttpError, as_http_error, error_response
from runyard.gateway.http.event_writer import EventWriter
from runyard.gateway.http.stopping import until_stop
from runyard.gateway.http.watcher import InvocationWatcher

# JSON values in a body with a model: pydantic collects every error before it reports the first.
_MAX_VALUES = 50_000
# Whom the memory for bodies of admitted callers is counted for (`Endpoint.admits`).
_ADMITTED = "admitted callers"
# An event of 512 KiB can be three times as long if every letter is escaped as \u and four digits.
_MAX_MODEL_BYTES = 2 * 1024 * 1024


def _require_iso_8601(value: object) -> object:
    """Reject a number, which pydantic would interpret as seconds or milliseconds."""
    if isinstance(value, str) and "-" not in value[1:]:
        raise ValueError("write it as 2026-01-31T09:00:00Z")
    return value


# A time with a time zone in a query, in ISO 8601. (In a body AwareDatetime alone is as strict.)
Timestamp = Annotated[AwareDatetime, BeforeValidator(_require_iso_8601)]


class Query(BaseModel):
    """The base of every query: unknown parameters are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Body(BaseModel):
    """The base of every body: unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Services:
    """What the handlers of a web process share."""

    authenticator: Authenticator
    writer: EventWriter
    checkpoints: CheckpointWriter
    watcher: InvocationWatcher
    background: BackgroundRunner
    broadcaster: Broadcaster


@dataclass
class Call:
    """A request whose caller, query and body have been checked.

    Attributes
    ----------
    request
        The request itself.
    caller
        The key of the caller.
    query, body
        Instances of the endpoint's models; `raw` is the body as it was sent.
    """

    request: Request
    caller: Key
    query: Any
    body: Any
    raw: bytes

    @property
    def services(self) -> Services:
        """The services of this web process."""
        services: Services = self.request.app.state.services
        return services

    def path(self, name: str) -> str:
        """A path parameter."""
        return str(self.request.path_params[name])

    def check_may_send(self, event: str) -> None:
        """Raise `HttpError` unless the caller's key may send events of this name."""
        check_may_send(self.caller, event)


# The group of endpoints that others call but that do nothing here; /docs folds it.
NO_OP = "No-op endpoints"


@dataclass(frozen=True)
class Endpoint:
    """One method on one path.

    Parameters
    ----------
    method, path, handler
        The path in Starlette's syntax: `/api/events/{id}`.
    group, summary
        Its tag in OpenAPI, and a sentence that says what it does.
    scope
        The scope that the caller's key must have; None if anybody may call it.
    query, body
        The models of the query and the body; without `body` the handler gets the raw bytes.
    response, status
        The model and status of a success; None if the response is not JSON.
    other_responses
        Further responses, by status: a description, and the model (None for no content).
    body_schema
        The JSON Schema, for OpenAPI, of a body without a model.
    media_types
        The media types of responses that are not JSON.
    headers
        Descriptions of the request headers that the handler reads, for OpenAPI.
    errors
        Error statuses besides those that every endpoint has.
    signed
        Whether a signature is accepted instead of a key.
    error_fields
        Additional fields of its errors.
    admits
        For an endpoint without a scope: raises `HttpError` for callers who may not use it, before
        their body is read.
    max_bytes
        How large a body may be. By default 10 MiB, or 2 MiB with a model, which holds one event at
        most.
    repeated
        Query parameters that may occur several times, as lists in the model.
    in_outages
        Whether a known key is accepted for as long as the database is unavailable.
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
    admits: Callable[[Request], None] | None = None
    max_bytes: int | None = None
    repeated: tuple[str, ...] = ()
    in_outages: bool = False

    def route(self) -> Route:
        """The Starlette route."""
        name = f"{self.method} {self.path}"
        return Route(self.path, self._handle, methods=[self.method], name=name)

    async def _handle(self, request: Request) -> Response:
        request.state.endpoint = f"{self.method} {self.path}"
        try:
            result = await self.handler(await self._check(request))
        except Exception as error:
            return error_response(request, as_http_error(error), self.error_fields)
        return result if isinstance(result, Response) else json_response(result, self.status)

    async def _check(self, request: Request) -> Call:
        caller, raw = await self._authenticate(request)
        with client_errors():
            query = self.query.model_validate(_values(request, self.repeated))
        if len(raw) > LARGE_BYTES:
            body = await parse_in_thread(self._parse, raw)
        else:
            body = self._parse(raw or b"{}")
        return Call(request, caller, query, body, raw)

    async def _authenticate(self, request: Request) -> tuple[Key, bytes]:
        """The caller and the body.

        The body is read first only if it carries a signature to verify: otherwise anybody without a
        key could make the server read it.
        """
        if self.scope is None:
            anybody = Key("anybody", "anybody", b"", ())
            if self.admits is None:
                return anybody, await self._read(request)
            self.admits(request)
            return anybody, await self._read(request, _ADMITTED)
        authenticator: Authenticator = request.app.state.services.authenticator
        if self.signed and "webhook-signature" in request.headers:
            raw = await read_body(request, self._max_bytes)
            caller = await authenticator.authenticate(request, self.scope, body=raw)
            body_memory.sender_identified(request.state, caller.id)
            return caller, raw
        caller = await authenticator.authenticate(request, self.scope, in_outages=self.in_outages)
        return caller, await self._read(request, caller.id)

    async def _read(self, request: Request, key: str | None = None) -> bytes:
        if self.method not in ("POST", "PUT", "PATCH"):
            return b""
        return await read_body(request, self._max_bytes, key)

    @property
    def _max_bytes(self) -> int:
        return self.max_bytes or (MAX_BODY_BYTES if self.body is None else _MAX_MODEL_BYTES)

    def _parse(self, raw: bytes) -> BaseModel | None:
        if self.body is None:
            return None
        with client_errors():
            parse_json(raw, _MAX_VALUES)  # pydantic's own parser accepts more than JSON
            return self.body.model_validate_json(raw, strict=True)


def json_response(model: BaseModel, status: int = 200) -> Response:
    """A model as a JSON response."""
    content = to_json(model)
    return Response(content, status, media_type="application/json", headers=RESPONSE_HEADERS)


def event_stream(messages: AsyncIterator[bytes]) -> Response:
    """Server-sent events, which no proxy on the way should cache or buffer.

    They end when the process is told to stop.
    """
    return StreamingResponse(
        until_stop(messages),
        media_type="text/event-stream",
        headers={**RESPONSE_HEADERS, "X-Accel-Buffering": "no"},
    )


def not_found(what: str, name: object) -> HttpError:
    """The error for something that does not exist."""
    return HttpError(404, "not_found", f"there is no {what} {name}")


def _values(request: Request, repeated: Collection[str]) -> dict[str, str | list[str]]:
    """The query parameters; raises `HttpError` for one that occurs twice and may not."""
    parameters: dict[str, str | list[str]] = {}
    for name, value in request.query_params.multi_items():
        if name in repeated:
            values = parameters.setdefault(name, [])
            assert isinstance(values, list)
            values.append(value)
            continue
        if name in parameters:
            raise HttpError(400, "invalid_field", "occurs twice; send it once", name)
        parameters[name] = value
    return parameters
