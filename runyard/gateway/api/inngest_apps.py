"""What applications with Inngest's SDKs call: to register, and for runs with much state.

Applications authenticate with the hash of the signing key that they share with this server. Without
a signing key everything is open on loopback in development, and nothing elsewhere.
"""

from collections.abc import Mapping
from typing import Any

import pydantic_core
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from runyard.apps import catalog, registration, run_ids
from runyard.apps.answers import step_id
from runyard.apps.requests import events_json
from runyard.apps.signatures import is_authorized
from runyard.apps.sync import register
from runyard.apps.trust import server_kind, signing_keys
from runyard.engine.items import event_from_row
from runyard.engine.status import FINAL
from runyard.gateway.http.body import check_values
from runyard.gateway.http.endpoint import NO_OP, Call, Endpoint, Query, not_found
from runyard.gateway.http.errors import RESPONSE_HEADERS, HttpError
from runyard.gateway.http.guard import media_type
from runyard.store import database
from runyard.store.queries import Row, fetch_all, fetch_one

_EXPECTED_KIND = "x-inngest-expected-server-kind"
_NOT_HERE = {
    "connect": "connections over a WebSocket (connect) are not supported: serve the functions over"
    " HTTP, with serve() instead of connect()",
    "endpoints": "durable endpoints are not supported: make it a function, and send its event",
}


class RegisterQuery(Query):
    """What this server has asked with, if it has."""

    deployId: str | None = None


class RemoveQuery(Query):
    """The URL at which the application is served."""

    url: str


class TokenQuery(Query):
    """The token of a run of a durable endpoint."""

    token: str | None = None


class Registered(BaseModel):
    """An application has registered: whether anything has changed."""

    ok: bool = True
    modified: bool
    status: int = 200


class Removed(BaseModel):
    """The applications that were removed."""

    ok: bool = True
    removed: list[str]


class Ignored(BaseModel):
    """What was sent is not used."""

    ok: bool = True


def admits(request: Request) -> None:
    """Raise `HttpError` for callers that are no application of this server."""
    keys = signing_keys()
    if keys:
        if not is_authorized(keys, request.headers.get("authorization", "")):
            raise HttpError(
                401,
                "unauthorized",
                "this is not the signing key of this server: give the application the value of"
                " RUNYARD_SIGNING_KEY as INNGEST_SIGNING_KEY",
            )
    elif not request.app.state.services.authenticator.development:
        raise HttpError(
            401,
            "unauthorized",
            "applications need a signing key to register here: set RUNYARD_SIGNING_KEY, and give it"
            " to them as INNGEST_SIGNING_KEY",
        )


def _admits_json(request: Request) -> None:
    admits(request)
    declared = media_type(request.headers)
    if not declared.endswith("json"):
        message = "a registration is JSON: send it with Content-Type: application/json"
        raise HttpError(415, "not_json", message)


async def register_app(call: Call) -> Registered:
    """Register an application: its functions replace those that it has registered before."""
    expected = call.request.headers.get(_EXPECTED_KIND, "").lower()
    if expected not in ("", server_kind()):
        raise HttpError(
            400,
            "other_server",
            f"the application expects a server of the kind {expected[:20]}, and this one is"
            f" {server_kind()}: "
            + (
                "start it without INNGEST_DEV, and with INNGEST_SIGNING_KEY"
                if signing_keys()
                else "start it with INNGEST_DEV, the URL of this server"
            ),
        )
    check_values(call.raw)
    query: RegisterQuery = call.query
    asked = (query.deployId or "")[:200]
    return Registered(modified=await run_in_threadpool(register, call.raw, asked))


async def remove_app(call: Call) -> Removed:
    """Remove the applications at a URL; their functions get no new runs."""
    query: RemoveQuery = call.query
    names = await run_in_threadpool(_remove, query.url)
    if not names:
        raise not_found("application at", query.url[:200])
    return Removed(removed=names)


def _remove(url: str) -> list[str]:
    return [name for name in catalog.names_at(url) if catalog.remove(name)]


async def batch(call: Call) -> Response:
    """The events of a run, for a call that was too large to hold them."""
    row = await run_in_threadpool(_run, call.path("run_id"))
    others = await run_in_threadpool(_group, row["id"])
    events = [event_from_row({**row, "user_data": row["user"]}), *map(event_from_row, others)]
    return _json(events_json(events).encode())


async def actions(call: Call) -> Response:
    """The steps of a run that are done, for a call that was too large to hold them."""
    row = await run_in_threadpool(_run, call.path("run_id"))
    if row["status"] in FINAL:
        raise HttpError(410, "ended", "this run has ended")
    return _json(pydantic_core.to_json(await run_in_threadpool(_memos, row["id"])))


def _run(id: str) -> Row:
    """The invocation that a run's id means, with its event; raises `HttpError`."""
    number = run_ids.invocation_of(id)
    row = None
    if number is not None:
        with database.connection() as connection:
            row = fetch_one(connection, "remote_run", invocation=number)
    if row is None or run_ids.run_id(row["id"], row["created_at"]) != id:
        raise not_found("run", id[:40])
    return row


def _group(invocation: int) -> list[Row]:
    with database.connection() as connection:
        return fetch_all(connection, "group_events", leaders=[invocation])


def _memos(invocation: int) -> Mapping[str, Any]:
    with database.connection() as connection:
        rows = fetch_all(connection, "remote_memos", invocation=invocation)
    return {step_id(row["step"]): row["output"] for row in rows}


def _json(content: bytes) -> Response:
    return Response(content, media_type="application/json", headers=RESPONSE_HEADERS)


async def ignore(call: Call) -> Ignored:
    """Take what an SDK sends about its own tracing, or about a run, and drop it."""
    del call
    return Ignored()


async def no_connect(call: Call) -> Response:
    """Say that there is no connect."""
    del call
    raise HttpError(501, "not_supported", _NOT_HERE["connect"])


async def no_endpoints(call: Call) -> Response:
    """Say that there are no durable endpoints."""
    del call
    raise HttpError(501, "not_supported", _NOT_HERE["endpoints"])


_GROUP = "Applications"
BEARER = {"authorization": "`Bearer` and the hash of the signing key, as the SDKs send it."}
ENDPOINTS = [
    Endpoint(
        "POST",
        "/fn/register",
        register_app,
        _GROUP,
        "Register an application: its functions replace those it had",
        None,
        query=RegisterQuery,
        response=Registered,
        body_schema={
            "type": "object",
            "required": ["url", "appName", "functions"],
            "properties": {
                "url": {"type": "string"},
                "appName": {"type": "string"},
                "functions": {"type": "array", "items": {"type": "object"}},
            },
        },
        headers={
            **BEARER,
            _EXPECTED_KIND: "What the application takes this server for: `dev` or `cloud`.",
        },
        errors=(401,),
        admits=_admits_json,
        max_bytes=registration.MAX_BYTES,
    ),
    Endpoint(
        "DELETE",
        "/fn/remove",
        remove_app,
        _GROUP,
        "Remove the applications at a URL",
        None,
        query=RemoveQuery,
        response=Removed,
        headers=BEARER,
        errors=(401, 404),
        admits=admits,
    ),
    Endpoint(
        "GET",
        "/v0/runs/{run_id}/batch",
        batch,
        _GROUP,
        "The events of a run",
        None,
        media_types=("application/json",),
        headers=BEARER,
        errors=(401, 404),
        admits=admits,
    ),
    Endpoint(
        "GET",
        "/v0/runs/{run_id}/actions",
        actions,
        _GROUP,
        "The steps of a run that are done",
        None,
        media_types=("application/json",),
        headers=BEARER,
        errors=(401, 404, 410),
        admits=admits,
    ),
    *(
        Endpoint(
            "POST",
            path,
            ignore,
            NO_OP,
            summary,
            None,
            response=Ignored,
            headers=BEARER,
            errors=(401,),
            admits=admits,
        )
        for path, summary in (
            ("/v1/traces/userland", "Traces of an SDK, which are not used"),
            ("/dev/traces", "Traces of an SDK, which are not used"),
            ("/v1/runs/{run_id}/metadata", "Metadata of a run, which is not used"),
        )
    ),
    *(
        Endpoint(
            "POST",
            path,
            handler,
            NO_OP,
            summary,
            None,
            headers=BEARER,
            errors=(401, 501),
            admits=admits,
        )
        for path, handler, summary in (
            ("/v0/connect/start", no_connect, "Connections over a WebSocket: not supported"),
            ("/v0/connect/flush", no_connect, "Connections over a WebSocket: not supported"),
            ("/v1/checkpoint", no_endpoints, "Durable endpoints: not supported"),
            ("/v1/checkpoint/{run_id}/steps", no_endpoints, "Durable endpoints: not supported"),
        )
    ),
    *(
        Endpoint(
            "GET",
            path,
            no_endpoints,
            NO_OP,
            "Durable endpoints: not supported",
            None,
            query=TokenQuery,
            errors=(501,),
        )
        for path in ("/v1/http/runs/{run_id}/output", "/v1/checkpoint/{run_id}/output")
    ),
]
