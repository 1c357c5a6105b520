"""What came in and what became of it: events, invocations, functions, in pages."""

import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import Field
from starlette.concurrency import run_in_threadpool

from runyard.engine.api_keys import Key
from runyard.events import catalog
from runyard.functions.registry import registered_events
from runyard.gateway.api.schemas import (
    EventsPage,
    EventView,
    FullInvocation,
    Functions,
    FunctionView,
    Invocations,
    InvocationsPage,
    InvocationView,
    Status,
)
from runyard.gateway.api.wait import invocations_of
from runyard.gateway.http.endpoint import Call, Endpoint, Query, Timestamp, not_found
from runyard.gateway.http.errors import HttpError
from runyard.store import database
from runyard.store.queries import Row, fetch_all, fetch_one

MAX_ROWS = 100
# Of the data of a page: a page of large events has fewer of them.
_PAGE_BYTES = 2 * 1024 * 1024
_STATEMENT_SECONDS = 5
_LARGEST_ID = 2**63 - 1
# Where a page ends: the time and the id of its last row.
Cursor = tuple[datetime, str]


class PageQuery(Query):
    """Which page: `limit` rows, after the `cursor` that the page before gave."""

    limit: Annotated[int, Field(ge=1, le=MAX_ROWS)] = 20
    cursor: str | None = None


class EventsQuery(PageQuery):
    """Which events: by name, source and the time at which they came."""

    name: str | None = None
    source: str | None = None
    received_after: Timestamp | None = None
    received_before: Timestamp | None = None


class InvocationsQuery(PageQuery):
    """Which invocations: of a function, by status and the time at which their event came."""

    function: str
    status: Status | None = None
    created_after: Timestamp | None = None
    created_before: Timestamp | None = None


async def events(call: Call) -> EventsPage:
    """A page of events."""
    asked: EventsQuery = call.query
    bounds = {
        "name": asked.name,
        "source": asked.source,
        "after": asked.received_after,
        "before": asked.received_before,
        "names": call.caller.name_patterns(),
    }
    rows, last = await run_in_threadpool(events_page, bounds, asked.limit, _read(asked.cursor))
    return EventsPage(events=[EventView.model_validate(row) for row in rows], cursor=_written(last))


async def event(call: Call) -> EventView:
    """One event."""
    return await run_in_threadpool(event_of, call.path("id"), call.caller)


async def invocations_of_event(call: Call) -> Invocations:
    """The invocations of one event."""
    await run_in_threadpool(event_of, call.path("id"), call.caller)
    return Invocations(invocations=await run_in_threadpool(invocations_of, [call.path("id")]))


async def invocations(call: Call) -> InvocationsPage:
    """A page of invocations."""
    asked: InvocationsQuery = call.query
    bounds = {
        "function": asked.function,
        "status": asked.status,
        "after": asked.created_after,
        "before": asked.created_before,
        "names": call.caller.name_patterns(),
    }
    rows, last = await run_in_threadpool(
        _page, "invocations_page", "created_at", bounds, asked.limit, _read(asked.cursor)
    )
    return InvocationsPage(
        invocations=[InvocationView.model_validate(row) for row in rows], cursor=_written(last)
    )


async def invocation(call: Call) -> FullInvocation:
    """One invocation."""
    return await run_in_threadpool(invocation_of, call.path("id"), call.caller)


async def functions(call: Call) -> Functions:
    """The registry: the functions that events start which the caller's key is for."""
    rows = await run_in_threadpool(_functions)
    known = [
        row
        for row in rows
        if call.caller.events is None
        or any(call.caller.is_for(event) for event in registered_events(row))
    ]
    return Functions(functions=[FunctionView.model_validate(row) for row in known])


def event_of(event_id: str, caller: Key) -> EventView:
    """The event with this id; raises `HttpError` when there is none that the caller's key is for."""
    with database.connection() as connection:
        row = fetch_one(connection, "event", id=event_id)
    if row is None or not caller.is_for(row["name"]):
        raise not_found("event", event_id)
    return EventView.model_validate(row)


def invocation_of(given: str, caller: Key) -> FullInvocation:
    """The invocation with this id; raises `HttpError` when there is none that the caller's key is for."""
    number, _ = status_of(given, caller)
    with database.connection() as connection:
        row = fetch_one(connection, "invocations_in_full", events=[], invocation=number)
    if row is None:
        raise not_found("invocation", given)
    return FullInvocation.model_validate(row)


def status_of(given: str, caller: Key) -> tuple[int, str]:
    """The id and the status of an invocation, without all that it has given; raises `HttpError` when there is none that the caller's key is for."""
    with database.connection() as connection:
        row = fetch_one(connection, "invocation_status", invocation=_number_of(given))
    # An event that is gone already is nobody's in particular.
    if row is None or (caller.events is not None and not caller.is_for(row["event"] or "")):
        raise not_found("invocation", given)
    return row["id"], row["status"]


def _number_of(given: str) -> int:
    """The id of an invocation as a number; raises `HttpError` for what cannot be one."""
    number = as_number(given)
    if number is None:
        raise not_found("invocation", given)
    return number


def as_number(given: str) -> int | None:
    """A text as the id of an invocation; None for what cannot be one."""
    return (
        int(given)
        if given.isascii() and given.isdecimal() and len(given) < 20 and int(given) <= _LARGEST_ID
        else None
    )


def events_page(
    bounds: Mapping[str, Any], limit: int, after: Cursor | None
) -> tuple[list[Row], Cursor | None]:
    """A page of events (`name`, `source`, `names`, `after` and `before` of the bounds may be None) and, where more follow, the place of its last."""
    return _page("events_page", "received_at", bounds, limit, after)


def _page(
    statement: str, ordered_by: str, bounds: Mapping[str, Any], limit: int, after: Cursor | None
) -> tuple[list[Row], Cursor | None]:
    at, last = after if after is not None else (None, None)
    with database.searching(_STATEMENT_SECONDS) as connection:
        rows = fetch_all(
            connection,
            statement,
            **bounds,
            limit=limit + 1,
            bytes=_PAGE_BYTES,
            cursor_at=at,
            cursor_id=last,
        )
    shown = rows[:limit]
    return shown, (shown[-1][ordered_by], str(shown[-1]["id"])) if rows and rows[0]["found"] > len(
        shown
    ) else None


def _written(place: Cursor | None) -> str | None:
    """A place as a cursor."""
    return (
        base64.urlsafe_b64encode(json.dumps([place[0].isoformat(), place[1]]).encode())
        .decode()
        .rstrip("=")
        if place is not None
        else None
    )


def _read(cursor: str | None) -> Cursor | None:
    if cursor is None:
        return None
    try:
        at, last = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        moment = datetime.fromisoformat(at)
        if moment.tzinfo is None or not isinstance(last, str):
            raise ValueError(cursor)
        moment = moment.astimezone(UTC)  # what no database has is told here
        last.encode()  # and half a surrogate pair, which cannot be sent to one
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise HttpError(
            400,
            "invalid_field",
            "is no cursor: give the one that the page before came with, as it is",
            "cursor",
        ) from None
    return moment, last


def _functions() -> list[Row]:
    with database.connection() as connection:
        rows = fetch_all(connection, "functions")
    return [{**row, "schemas": _schemas(row)} for row in rows]


def _schemas(row: Row) -> dict[str, Any]:
    return {
        name: schema
        for name in registered_events(row)
        if (schema := catalog.schema(name)) is not None
    }


ENDPOINTS = [
    Endpoint(
        "GET",
        "/api/events",
        events,
        "History",
        "Events, newest first.",
        "read",
        query=EventsQuery,
        response=EventsPage,
    ),
    Endpoint("GET", "/api/events/{id}", event, "History", "An event.", "read", response=EventView),
    Endpoint(
        "GET",
        "/api/events/{id}/invocations",
        invocations_of_event,
        "History",
        "What an event has set off, with steps.",
        "read",
        response=Invocations,
    ),
    Endpoint(
        "GET",
        "/api/invocations",
        invocations,
        "History",
        "The invocations of a function, newest first.",
        "read",
        query=InvocationsQuery,
        response=InvocationsPage,
    ),
    Endpoint(
        "GET",
        "/api/invocations/{id}",
        invocation,
        "History",
        "An invocation: steps, attempts, output, error.",
        "read",
        response=FullInvocation,
    ),
    Endpoint(
        "GET",
        "/api/functions",
        functions,
        "Functions",
        "The registry: every function, with the JSON Schema of its events.",
        "read",
        response=Functions,
    ),
]
