"""`POST /api/inngest/trigger`: an event by hand, or a function by its name; with `?wait=` also what came of it."""

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
    """An event by its name, or a function by its name: then only that function runs, whatever starts it otherwise."""

    event: str | None = Field(default=None, examples=["email/send.requested"])
    function: str | None = None
    data: dict[str, Any] = Field(
        default_factory=dict,
        examples=[{"to": ["ada@example.com"], "template": "welcome", "data": {"name": "Ada"}}],
    )
    id: str | None = Field(default=None, description="Idempotency key of the event.")
    ts: int | None = Field(
        default=None, description="When it is to happen, in milliseconds since the epoch."
    )
    user: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _names_one(self) -> Self:
        if (self.event is None) == (self.function is None):
            raise ValueError("give an event or a function, one of them")
        return self


async def trigger(call: Call) -> Response:
    """Send the event; wait for its outcome where asked."""
    rows = await run_in_threadpool(_rows, call)
    ids = await call.services.writer.send(rows)
    return await outcome(call, ids, call.query.wait)


def _rows(call: Call) -> EncodedEvents:
    asked: TriggerBody = call.body
    name = asked.event if asked.event is not None else _event_of(asked.function or "", call.caller)
    call.check_may_send(name)
    with client_errors():
        return _checked_rows(call, asked, name)


def _checked_rows(call: Call, asked: TriggerBody, name: str) -> EncodedEvents:
    event = Event(name, asked.data, id=asked.id, ts=asked.ts, user=asked.user)
    if asked.function is None or not name.startswith(INTERNAL_PREFIXES):
        return EncodedEvents.of(
            [{**row, "target": asked.function} for row in rows_of([event])], call.caller.sender
        )
    for field in ("id", "ts", "user"):
        if getattr(asked, field) is not None:
            raise InvalidEvent("goes with functions that an event starts; leave it out", field)
    return EncodedEvents.of(
        [{**internal_row(name, asked.data), "target": asked.function}], call.caller.sender
    )


def _event_of(function: str, caller: Key) -> str:
    """The name of an event for a function alone: its first, so that the data has that type, or an internal one where only wildcards or the clock start it."""
    with database.connection() as connection:
        row = fetch_one(connection, "active_function", function=function)
    names = registered_events(row) if row is not None else []
    event = next(
        (name for name in names if not Trigger(name).wildcard), INVOKED if names else SCHEDULED
    )
    # What a key is not for is not there, and so is not told from what is not there at all.
    if row is None or not caller.is_for(event):
        raise not_found("function", function)
    return event


ENDPOINTS = [
    Endpoint(
        "POST",
        "/api/inngest/trigger",
        trigger,
        "Trigger",
        "Send an event, or run one function; with `wait` its outcome is the answer.",
        "send",
        query=WaitQuery,
        body=TriggerBody,
        response=Outcome,
        other_responses={202: ("it goes on", Outcome)},
        errors=(404,),
    )
]
