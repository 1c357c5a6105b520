"""The models of the responses: events, invocations and functions."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel

from runyard.engine.status import FINAL, Status


class EventView(BaseModel):
    """An event; `ts` in milliseconds since the epoch, `caused_by` the invocation that sent it."""

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
    """One event for one function: an execution of the function.

    `leader_id` is the invocation in whose run it takes part, for a function that is called with
    several events at once; that of the first event has its own id there.
    """

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
    leader_id: int | None
    output: Any
    error: Failure | None
    dismissed_at: datetime | None


class StepView(BaseModel):
    """A step: its output, or the error of its last attempt."""

    step: str
    tries: int
    output: Any
    error: Failure | None
    run_id: str | None
    started_at: datetime
    finished_at: datetime


class WaitView(BaseModel):
    """What an invocation waits for: a time, an event, a signal or another function."""

    step: str
    kind: str
    event: str | None
    signal: str | None
    until: datetime


class ProgressView(BaseModel):
    """The progress that a step reports."""

    step: str
    percent: float
    text: str
    at: datetime


class FullInvocation(InvocationView):
    """An invocation with its steps, waits and latest progress."""

    steps: list[StepView]
    waits: list[WaitView]
    progress: ProgressView | None


class Page(BaseModel):
    """The base of a page: `cursor` leads to the next page; null on the last one."""

    cursor: str | None


class EventsPage(Page):
    """A page of events, newest first."""

    events: list[EventView]


class InvocationsPage(Page):
    """A page of invocations, newest first."""

    invocations: list[InvocationView]


class LogLine(BaseModel):
    """A line: `level` is `stdout` or `stderr` for what was printed, else the level of a record."""

    at: datetime
    level: str
    text: str


class LogView(BaseModel):
    """The first lines that a step printed and logged in a run, and how many more there were."""

    step: str
    run_id: str
    attempt: int
    lines: list[LogLine]
    dropped: int


class LogsPage(Page):
    """A page of an invocation's logs, oldest first."""

    logs: list[LogView]


class Invocations(BaseModel):
    """All invocations of an event."""

    invocations: list[FullInvocation]


class FunctionView(BaseModel):
    """A function: its triggers, flow control, and numbers of queued and failed invocations.

    `schemas` has the JSON Schema of the data of each of its events in the catalog.
    """

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
    """All functions."""

    functions: list[FunctionView]


class Accepted(BaseModel):
    """The ids of accepted events."""

    ids: list[str]


class Received(Accepted):
    """The events made of a webhook's body, and how many of its parts could not be parsed."""

    not_understood: int


class Outcome(Accepted):
    """Accepted events and their outcome; `done` when all invocations are final."""

    done: bool
    invocations: list[FullInvocation]


def done(invocations: Sequence[FullInvocation]) -> bool:
    """Whether all of them are final."""
    return all(invocation.status in FINAL for invocation in invocations)
