"""Events and invocations in pages, and the registered functions."""

import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import Field
from starlette.concurrency import run_in_threadpool

from runyard.engine.api_keys import Key
from runyard.engine.status import Status
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
    LogLine,
    LogsPage,
    LogView,
)
from runyard.gateway.api.wait import invocations_of
from runyard.gateway.http.endpoint import Call, Endpoint, Query, Timestamp, not_found
from runyard.gateway.http.errors import HttpError
from runyard.store import database
from runyard.store.queries import Row, fetch_all, fetch_one

MAX_ROWS = 100
# The data that a page may have: a page of large events has fewer of them.
_PAGE_BYTES = 2 * 1024 * 1024
_STATEMENT_SECONDS = 5
_LARGEST_ID = 2**63 - 1
# Where a page ends: the time and id of its last row.
Cursor = tuple[datetime, str]


class PageQuery(Query):
    """Which page: `limit` rows after the `cursor` of the previous page."""

    limit: Annotated[int, Field(ge=1, le=MAX_ROWS)] = 20
    cursor: str | None = None


class EventsQuery(PageQuery):
    """Which events: by name, source and time of arrival."""

    name: str | None = None
    source: str | None = None
    received_after: Timestamp | None = None
    received_before: Timestamp | None = None


class InvocationsQuery(PageQuery):
    """Which invocations: of a function, by status and time of creation."""

    function: str
    status: Status | None = None
    created_after: Timestamp | None = None
    created_before: Timestamp | None = None


class LogsQuery(PageQuery):
    """Which logs: of all steps, or of one."""

    step: str | None = None


async def events(call: Call) -> EventsPage:
    """A page of events."""
    query: EventsQuery = call.query
    bounds = {
        "name": query.name,
        "source": query.source,
        "after": query.received_after,
        "before": query.received_before,
        "names": call.caller.name_patterns(),
    }
    start = _decode(query.cursor)
    rows, end = await run_in_threadpool(events_page, bounds, query.limit, start)
    return EventsPage(events=[EventView.model_validate(row) for row in rows], cursor=_encode(end))


async def event(call: Call) -> EventView:
    """One event."""
    return await run_in_threadpool(event_of, call.path("id"), call.caller)


async def invocations_of_event(call: Call) -> Invocations:
    """The invocations of one event."""
    await run_in_threadpool(event_of, call.path("id"), call.caller)
    return Invocations(invocations=await run_in_threadpool(invocations_of, [call.path("id")]))


async def invocations(call: Call) -> InvocationsPage:
    """A page of invocations."""
    query: InvocationsQuery = call.query
    bounds = {
        "function": query.function,
        "status": query.status,
        "after": query.created_after,
        "before": query.created_before,
        "names": call.caller.name_patterns(),
    }
    start = _decode(query.cursor)
    rows, end = await run_in_threadpool(
        _page, "invocations_page", "created_at", bounds, query.limit, start
    )
    views = [InvocationView.model_validate(row) for row in rows]
    return InvocationsPage(invocations=views, cursor=_encode(end))


async def invocation(call: Call) -> FullInvocation:
    """One invocation."""
    return await run_in_threadpool(invocation_of, call.path("id"), call.caller)


async def logs(call: Call) -> LogsPage:
    """A page of what the steps of an invocation printed and logged."""
    query: LogsQuery = call.query
    number, _ = await run_in_threadpool(status_of, call.path("id"), call.caller)
    bounds = {"invocation": number, "step": query.step}
    start = _decode(query.cursor)
    rows, end = await run_in_threadpool(
        _page, "logs_page", "started_at", bounds, query.limit, start
    )
    return LogsPage(logs=[log_view(row) for row in rows], cursor=_encode(end))


async def functions(call: Call) -> Functions:
    """The functions that are triggered by events which the caller's key covers."""
    rows = await run_in_threadpool(_functions)
    visible = [
        row
        for row in rows
        if call.caller.events is None
        or any(call.caller.is_for(event) for event in registered_events(row))
    ]
    return Functions(functions=[FunctionView.model_validate(row) for row in visible])


def event_of(event_id: str, caller: Key) -> EventView:
    """An event; raises `HttpError` if it is missing, or the caller's key does not cover it."""
    with database.connection() as connection:
        row = fetch_one(connection, "event", id=event_id)
    if row is None or not caller.is_for(row["name"]):
        raise not_found("event", event_id)
    return EventView.model_validate(row)


def invocation_of(invocation_id: str, caller: Key) -> FullInvocation:
    """An invocation; raises `HttpError` if it is missing, or the caller's key does not cover it."""
    number, _ = status_of(invocation_id, caller)
    with database.connection() as connection:
        row = fetch_one(connection, "invocations_in_full", events=[], invocation=number)
    if row is None:
        raise not_found("invocation", invocation_id)
    return FullInvocation.model_validate(row)


def log_view(row: Row) -> LogView:
    """The log of a step, from its row."""
    lines = [
        LogLine(at=datetime.fromtimestamp(at, UTC), level=level, text=text)
        for at, level, text in row["lines"]
    ]
    return LogView.model_validate({**row, "lines": lines})


def status_of(invocation_id: str, caller: Key) -> tuple[int, str]:
    """The id and status of an invocation, without its steps and output.

    Raises `HttpError` if it is missing, or the caller's key does not cover it.
    """
    number = as_number(invocation_id)
    if number is None:
        raise not_found("invocation", invocation_id)
    with database.connection() as connection:
        row = fetch_one(connection, "invocation_status", invocation=number)
    # The event may have been deleted: then only unrestricted keys have access.
    if row is None or (caller.events is not None and not caller.is_for(row["event"] or "")):
        raise not_found("invocation", invocation_id)
    return row["id"], row["status"]


def as_number(text: str) -> int | None:
    """A text as the id of an invocation; None if it cannot be one."""
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        return None
    number = int(text)
    return number if number <= _LARGEST_ID else None


def events_page(
    bounds: Mapping[str, Any], limit: int, after: Cursor | None
) -> tuple[list[Row], Cursor | None]:
    """A page of events, and its end if more follow.

    The bounds are `name`, `source`, `names`, `after` and `before`, each of which may be None.
    """
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
    page = rows[:limit]
    if not rows or rows[0]["found"] <= len(page):
        return page, None
    return page, (page[-1][ordered_by], str(page[-1]["id"]))


def _encode(cursor: Cursor | None) -> str | None:
    if cursor is None:
        return None
    time, last = cursor
    encoded = base64.urlsafe_b64encode(json.dumps([time.isoformat(), last]).encode())
    return encoded.decode().rstrip("=")


def _decode(text: str | None) -> Cursor | None:
    if text is None:
        return None
    try:
        iso, last = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        time = datetime.fromisoformat(iso)
        if time.tzinfo is None or not isinstance(last, str):
            raise ValueError(text)
        time = time.astimezone(UTC)  # fails for a time that PostgreSQL cannot represent
        last.encode()  # fails for half a surrogate pair, which cannot be sent to PostgreSQL
    except (ValueError, TypeError, OverflowError, RecursionError):
        message = "is not a cursor: send the one of the previous page, unchanged"
        raise HttpError(400, "invalid_field", message, "cursor") from None
    return time, last


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
        "What an event triggered, with steps.",
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
        "/api/invocations/{id}/logs",
        logs,
        "History",
        "What the steps of an invocation printed and logged, oldest first.",
        "read",
        query=LogsQuery,
        response=LogsPage,
    ),
    Endpoint(
        "GET",
        "/api/functions",
        functions,
        "Functions",
        "All functions, with the JSON Schema of their events.",
        "read",
        response=Functions,
    ),
]
