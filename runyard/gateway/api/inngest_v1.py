"""Inngest's REST API, version 1: its clients read events and runs here, and cancel.

A run is an invocation, its `run_id` the invocation's number as text. Times are those of the answer: nothing is cached.
"""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import AwareDatetime, BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

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
_LOOKS_BACK = timedelta(hours=1)


class Metadata(BaseModel):
    """When an answer was made."""

    fetched_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    cached_until: datetime = Field(default_factory=lambda: datetime.now(UTC))


class V1Event(BaseModel):
    """An event: `internal_id` is ours, `id` the one that its sender gave."""

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
    """How every answer is wrapped."""

    data: Data
    metadata: Metadata = Field(default_factory=Metadata)


class V1EventsQuery(Query):
    """Which events; those of the last hour by default. `cursor` is the `internal_id` of the last event of the page before."""

    name: str | None = None
    received_after: Timestamp | None = None
    received_before: Timestamp | None = None
    limit: Annotated[int, Field(ge=1, le=MAX_ROWS)] = 20
    cursor: str | None = None


class Cancellation(Body):
    """Which runs to cancel: of a function, started in a time."""

    app_id: str | None = None
    function_id: Annotated[str, Field(min_length=1)]
    started_after: AwareDatetime | None = None
    started_before: AwareDatetime


async def events(call: Call) -> Envelope[list[V1Event]]:
    """Events, newest first."""
    asked: V1EventsQuery = call.query
    after = asked.received_after or datetime.now(UTC) - _LOOKS_BACK

    def look() -> list[V1Event]:
        place = _place(asked.cursor, call.caller) if asked.cursor is not None else None
        rows, _ = events_page(
            {
                "name": asked.name,
                "source": None,
                "after": after,
                "before": asked.received_before,
                "names": call.caller.name_patterns(),
            },
            asked.limit,
            place,
        )
        return [_event(EventView.model_validate(row)) for row in rows]

    return Envelope(data=await run_in_threadpool(look))


async def event(call: Call) -> Envelope[V1Event]:
    """One event."""
    return Envelope(data=_event(await run_in_threadpool(event_of, call.path("id"), call.caller)))


async def runs(call: Call) -> Envelope[list[V1Run]]:
    """The runs that an event has set off."""
    found = await run_in_threadpool(event_of, call.path("id"), call.caller)
    return Envelope(
        data=[
            _run(invocation) for invocation in await run_in_threadpool(invocations_of, [found.id])
        ]
    )


async def run(call: Call) -> Envelope[V1Run]:
    """One run."""
    return Envelope(data=_run(await run_in_threadpool(invocation_of, call.path("id"), call.caller)))


async def cancel_run(call: Call) -> Response:
    """Cancel a run; one that is final stays as it is."""
    await run_in_threadpool(cancel_invocation, call.path("id"), call.caller)
    return Response(status_code=204)


async def cancel_many(call: Call) -> Response:
    """Cancel the runs of a function that started in a time."""
    asked: Cancellation = call.body
    selection = Selection(
        function=asked.function_id, since=asked.started_after, until=asked.started_before
    )
    return json_response(await start(call, selection, "cancel"), 202)


def _place(cursor: str, caller: Key) -> Cursor:
    with database.connection() as connection:
        row = fetch_one(connection, "event", id=cursor)
    if row is None or not caller.is_for(row["name"]):
        raise HttpError(
            400,
            "invalid_field",
            "is no cursor: give the internal_id of the last event of the page before",
            "cursor",
        )
    return row["received_at"], cursor


def _event(found: EventView) -> V1Event:
    return V1Event(
        internal_id=found.id,
        id=found.idempotency_key or "",
        name=found.name,
        data=found.data,
        user=found.user,
        v=found.v,
        ts=found.ts,
        received_at=found.received_at,
        source=found.source,
    )


def _run(found: FullInvocation) -> V1Run:
    output = (
        found.output
        if found.error is None
        else {
            "name": found.error.type,
            "message": found.error.message,
            "stack": found.error.traceback,
        }
    )
    return V1Run(
        run_id=str(found.id),
        run_started_at=found.started_at or found.created_at,
        function_id=found.function,
        event_id=found.event_id,
        original_run_id=str(found.replay_of) if found.replay_of is not None else None,
        status=_STATUS.get(found.status, "Running"),
        ended_at=found.finished_at,
        output=output if found.finished_at is not None else None,
    )


_GROUP = "Inngest's REST API"
ENDPOINTS = [
    Endpoint(
        "GET",
        "/v1/events",
        events,
        _GROUP,
        "Events, newest first; of the last hour by default.",
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
        "What an event has set off.",
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
        "Cancel the runs of a function that started in a time.",
        "manage",
        body=Cancellation,
        response=BulkProgress,
        status=202,
    ),
]
