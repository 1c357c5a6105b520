"""How events, invocations and functions look to the clients of the HTTP API."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel

from runyard.engine.status import FINAL, Status


class EventView(BaseModel):
    """An event. `ts` in milliseconds since the epoch; `caused_by` is the invocation whose step sent it."""

    id: str
    idempotency_key: str | None
    name: str
    data: dict[str, Any]
    user: Any
    v: str | None
    ts: int
    received_at: datetime
    source: str
    caused_by: int | None
    target: str | None
    trace: str | None
    meta: Any


class Failure(BaseModel):
    """Why an invocation, or a step of it, failed."""

    step: str | None
    type: str
    message: str
    traceback: str = ""


class InvocationView(BaseModel):
    """One event for one function."""

    id: int
    event_id: str
    function: str
    status: Status
    attempt: int
    priority: int
    created_at: datetime
    due_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    run_id: str | None
    replay_of: int | None
    output: Any
    error: Failure | None
    dismissed_at: datetime | None


class StepView(BaseModel):
    """A step: what it gave, or the error of its last attempt."""

    step: str
    tries: int
    output: Any
    error: Failure | None
    run_id: str | None
    started_at: datetime
    finished_at: datetime


class WaitView(BaseModel):
    """What an invocation waits for: a time, an event, another function."""

    step: str
    kind: str
    event: str | None
    until: datetime


class ProgressView(BaseModel):
    """How far a step says that it is."""

    step: str
    percent: float
    text: str
    at: datetime


class FullInvocation(InvocationView):
    """An invocation with its steps, what it waits for, and its last progress."""

    steps: list[StepView]
    waits: list[WaitView]
    progress: ProgressView | None


class Page(BaseModel):
    """The base of a page: `cursor` is asked for the next one; None on the last."""

    cursor: str | None


class EventsPage(Page):
    """A page of events, newest first."""

    events: list[EventView]


class InvocationsPage(Page):
    """A page of invocations, newest first."""

    invocations: list[InvocationView]


class Invocations(BaseModel):
    """All invocations of an event."""

    invocations: list[FullInvocation]


class FunctionView(BaseModel):
    """A function: what starts it and under which flow control, what waits and what failed; the JSON Schema of the data of each event that the catalog has."""

    name: str
    job: str
    triggers: list[str]
    max_batch: int
    attempts: int
    flow: dict[str, Any]
    active: bool
    paused_at: datetime | None
    queued: int
    failed: int
    schemas: dict[str, dict[str, Any]]


class Functions(BaseModel):
    """The registry."""

    functions: list[FunctionView]


class Accepted(BaseModel):
    """Events that were taken: their ids."""

    ids: list[str]


class Received(Accepted):
    """Events that a webhook's body has become, and how many parts of the body were not understood."""

    not_understood: int


class Outcome(Accepted):
    """Events that were taken, and what became of them; `done` when nothing of them is open."""

    done: bool
    invocations: list[FullInvocation]


def done(invocations: Sequence[FullInvocation]) -> bool:
    """Whether all of them are final."""
    return all(invocation.status in FINAL for invocation in invocations)
