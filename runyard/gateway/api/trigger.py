"""`POST /api/inngest/trigger`: send an event, or run one function, and optionally `?wait=`."""

from typing import Any, Self

from pydantic import Field, model_validator
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from runyard.engine.api_keys import Key
from runyard.errors import InvalidEvent
from runyard.events import INTERNAL_PREFIXES, Event, internal_row, rows_of
from runyard.functions.registry import INVOKED, SCHEDULED, registered_events
from runyard.functions.triggers import Trigger
from runyard.gateway.api.schemas import Outcome
from runyard.gateway.api.wait import WaitQuery, outcome
from runyard.gateway.http.body import client_errors
from runyard.gateway.http.endpoint import Body, Call, Endpoint, not_found
from runyard.gateway.http.event_writer import EncodedEvents
from runyard.store import database
from runyard.store.queries import fetch_one


class TriggerBody(Body):
    """The name of an event, or of a function, which then runs alone, whatever triggers it."""

    event: str | None = Field(default=None, examples=["order/placed"])
    function: str | None = None
    data: dict[str, Any] = Field(
        default_factory=dict,
        examples=[{"to": ["ada@example.com"], "template": "welcome", "data": {"name": "Ada"}}],
    )
    id: str | None = Field(default=None, description="The idempotency key of the event.")
    ts: int | None = Field(
        default=None, description="When the event is due, in milliseconds since the epoch."
    )
    user: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _require_one(self) -> Self:
        if (self.event is None) == (self.function is None):
            raise ValueError("name either an event or a function")
        return self


async def trigger(call: Call) -> Response:
    """Send the event; wait for its outcome if requested."""
    rows = await run_in_threadpool(_rows, call)
    ids = await call.services.writer.send(rows)
    return await outcome(call, ids, call.query.wait)


def _rows(call: Call) -> EncodedEvents:
    body: TriggerBody = call.body
    name = body.event if body.event is not None else _event_of(body.function or "", call.caller)
    call.check_may_send(name)
    with client_errors():
        return _checked_rows(call, body, name)


def _checked_rows(call: Call, body: TriggerBody, name: str) -> EncodedEvents:
    event = Event(name, body.data, id=body.id, ts=body.ts, user=body.user)
    if body.function is not None and name.startswith(INTERNAL_PREFIXES):
        for field in ("id", "ts", "user"):
            if getattr(body, field) is not None:
                raise InvalidEvent("is only for functions that an event triggers; omit it", field)
        rows = [internal_row(name, body.data)]
    else:
        rows = rows_of([event])
    targeted = [{**row, "target": body.function} for row in rows]
    return EncodedEvents.of(targeted, call.caller.sender)


def _event_of(function: str, caller: Key) -> str:
    """The name of the event that runs a function alone.

    That is its first trigger, so that the data is validated, or an internal name if it has only
    wildcards or cron schedules.
    """
    with database.connection() as connection:
        row = fetch_one(connection, "active_function", function=function)
    names = registered_events(row) if row is not None else []
    event = next(
        (name for name in names if not Trigger(name).wildcard), INVOKED if names else SCHEDULED
    )
    # A function that the key may not trigger looks the same as a missing one.
    if row is None or not caller.is_for(event):
        raise not_found("function", function)
    return event


ENDPOINTS = [
    Endpoint(
        "POST",
        "/api/inngest/trigger",
        trigger,
        "Trigger",
        "Send an event, or run one function; with `wait` the response has the outcome.",
        "send",
        query=WaitQuery,
        body=TriggerBody,
        response=Outcome,
        other_responses={202: ("It is not finished yet.", Outcome)},
        errors=(404,),
    )
]
