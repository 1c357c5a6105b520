"""Inngest's REST API, version 1: its clients read events and runs here, and cancel runs.

A run is an invocation, its `run_id` the invocation's number as text (of several that are called
together, that of the first). The ULID that applications have for it is accepted too. `fetched_at`
and `cached_until` are the time of the response, for nothing is cached.
"""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import AwareDatetime, BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from runyard.apps import run_ids
from runyard.engine.api_keys import Key
from runyard.engine.bulk import Selection
from runyard.gateway.api.actions import BulkProgress, cancel_invocation, start
from runyard.gateway.api.history import MAX_ROWS, Cursor, event_of, events_page, invocation_of
from runyard.gateway.api.schemas import EventView, FullInvocation
from runyard.gateway.api.wait import invocations_of
from runyard.gateway.http.endpoint import Body, Call, Endpoint, Query, Timestamp, json_response
from runyard.gateway.http.errors import HttpError
from runyard.store import database
from runyard.store.queries import fetch_one

Data = TypeVar("Data")
RunStatus = Literal["Running", "Completed", "Failed", "Cancelled"]
_STATUS: dict[str, RunStatus] = {
    "succeeded": "Completed",
    "failed": "Failed",
    "cancelled": "Cancelled",
    "skipped": "Cancelled",
}
_DEFAULT_PERIOD = timedelta(hours=1)


class Metadata(BaseModel):
    """When a response was generated."""

    fetched_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    cached_until: datetime = Field(default_factory=lambda: datetime.now(UTC))


class V1Event(BaseModel):
    """An event: `internal_id` is ours, `id` the sender's own."""

    internal_id: str
    id: str
    name: str
    data: dict[str, Any]
    user: Any
    v: str | None
    ts: int
    received_at: datetime
    source: str


class V1Run(BaseModel):
    """An invocation."""

    run_id: str
    run_started_at: datetime
    function_id: str
    event_id: str
    original_run_id: str | None
    status: RunStatus
    ended_at: datetime | None
    output: Any


class Envelope(BaseModel, Generic[Data]):
    """The wrapper of every response."""

    data: Data
    metadata: Metadata = Field(default_factory=Metadata)


class V1EventsQuery(Query):
    """Which events, by default those of the last hour.

    `cursor` is the `internal_id` of the last event of the previous page.
    """

    name: str | None = None
    received_after: Timestamp | None = None
    received_before: Timestamp | None = None
    limit: Annotated[int, Field(ge=1, le=MAX_ROWS)] = 20
    cursor: str | None = None


class Cancellation(Body):
    """Which runs to cancel: those of a function that started in a period."""

    app_id: str | None = None
    function_id: Annotated[str, Field(min_length=1)]
    started_after: AwareDatetime | None = None
    started_before: AwareDatetime


async def events(call: Call) -> Envelope[list[V1Event]]:
    """Events, newest first."""
    query: V1EventsQuery = call.query
    return Envelope(data=await run_in_threadpool(_events, query, call.caller))


def _events(query: V1EventsQuery, caller: Key) -> list[V1Event]:
    bounds = {
        "name": query.name,
        "source": None,
        "after": query.received_after or datetime.now(UTC) - _DEFAULT_PERIOD,
        "before": query.received_before,
        "names": caller.name_patterns(),
    }
    start = _cursor(query.cursor, caller) if query.cursor is not None else None
    rows, _ = events_page(bounds, query.limit, start)
    return [_event(EventView.model_validate(row)) for row in rows]


async def event(call: Call) -> Envelope[V1Event]:
    """One event."""
    return Envelope(data=_event(await run_in_threadpool(event_of, call.path("id"), call.caller)))


async def runs(call: Call) -> Envelope[list[V1Run]]:
    """The runs that an event triggered."""
    view = await run_in_threadpool(event_of, call.path("id"), call.caller)
    invocations = await run_in_threadpool(invocations_of, [view.id])
    return Envelope(data=[_run(invocation) for invocation in invocations])


async def run(call: Call) -> Envelope[V1Run]:
    """One run."""
    return Envelope(data=_run(await run_in_threadpool(invocation_of, _number(call), call.caller)))


async def cancel_run(call: Call) -> Response:
    """Cancel a run; a final one stays as it is."""
    await run_in_threadpool(cancel_invocation, _number(call), call.caller)
    return Response(status_code=204)


async def cancel_many(call: Call) -> Response:
    """Cancel the runs of a function that started in a period."""
    body: Cancellation = call.body
    selection = Selection(
        function=body.function_id, since=body.started_after, until=body.started_before
    )
    return json_response(await start(call, selection, "cancel"), 202)


def _number(call: Call) -> str:
    """The number of the invocation that the id of a run means."""
    number = run_ids.invocation_of(call.path("id"))
    return call.path("id") if number is None else str(number)


def _cursor(internal_id: str, caller: Key) -> Cursor:
    with database.connection() as connection:
        row = fetch_one(connection, "event", id=internal_id)
    if row is None or not caller.is_for(row["name"]):
        message = "is not a cursor: send the internal_id of the last event of the previous page"
        raise HttpError(400, "invalid_field", message, "cursor")
    return row["received_at"], internal_id


def _event(event: EventView) -> V1Event:
    return V1Event(
        internal_id=event.id,
        id=event.idempotency_key or "",
        name=event.name,
        data=event.data,
        user=event.user,
        v=event.v,
        ts=event.ts,
        received_at=event.received_at,
        source=event.source,
    )


def _run(invocation: FullInvocation) -> V1Run:
    replay_of = invocation.replay_of
    return V1Run(
        run_id=str(invocation.leader_id or invocation.id),
        run_started_at=invocation.started_at or invocation.created_at,
        function_id=invocation.function,
        event_id=invocation.event_id,
        original_run_id=str(replay_of) if replay_of is not None else None,
        status=_STATUS.get(invocation.status, "Running"),
        ended_at=invocation.finished_at,
        output=_output(invocation) if invocation.finished_at is not None else None,
    )


def _output(invocation: FullInvocation) -> Any:
    error = invocation.error
    if error is None:
        return invocation.output
    return {"name": error.type, "message": error.message, "stack": error.traceback}


_GROUP = "Inngest's REST API"
ENDPOINTS = [
    Endpoint(
        "GET",
        "/v1/events",
        events,
        _GROUP,
        "Events, newest first; by default those of the last hour.",
        "read",
        query=V1EventsQuery,
        response=Envelope[list[V1Event]],
    ),
    Endpoint(
        "GET", "/v1/events/{id}", event, _GROUP, "An event.", "read", response=Envelope[V1Event]
    ),
    Endpoint(
        "GET",
        "/v1/events/{id}/runs",
        runs,
        _GROUP,
        "The runs that an event triggered.",
        "read",
        response=Envelope[list[V1Run]],
    ),
    Endpoint("GET", "/v1/runs/{id}", run, _GROUP, "A run.", "read", response=Envelope[V1Run]),
    Endpoint("DELETE", "/v1/runs/{id}", cancel_run, _GROUP, "Cancel a run.", "manage", status=204),
    Endpoint(
        "POST",
        "/v1/cancellations",
        cancel_many,
        _GROUP,
        "Cancel the runs of a function that started in a period.",
        "manage",
        body=Cancellation,
        response=BulkProgress,
        status=202,
    ),
]
