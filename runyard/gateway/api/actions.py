"""Replay and cancel, one invocation or many; pause and resume functions."""

from collections.abc import Iterator
from datetime import datetime
from functools import partial
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from runyard.engine import bulk
from runyard.engine.api_keys import Key
from runyard.engine.bulk import Action, Progress, Selection
from runyard.engine.control import set_paused
from runyard.engine.status import FINAL, STATUSES
from runyard.gateway.api.history import event_of, status_of
from runyard.gateway.http.auth import check_for_all_events
from runyard.gateway.http.endpoint import Body, Call, Endpoint, json_response, not_found
from runyard.gateway.http.errors import HttpError
from runyard.store import database
from runyard.store.queries import Row, fetch_all, fetch_one

# Time limit of each query for a bulk's invocations: a filter can be written to run for minutes, and
# would hold a connection. The command line has no such limit.
QUERY_SECONDS = 10
_ACTIONS: dict[Action, str] = {
    "replay": "Replay many invocations.",
    "cancel": "Cancel many invocations.",
    "dismiss": "Dismiss many final failures from the list of dead letters.",
}


class ReplayBody(Body):
    """How to replay: from the start, or keeping completed steps."""

    keep_steps: bool = False


class ReplayEventBody(ReplayBody):
    """How to replay, and for which function; by default for all of them."""

    function: str | None = None


class Replayed(BaseModel):
    """The new invocations."""

    invocations: list[int]


class Cancelled(BaseModel):
    """A cancelled invocation: at once if it waits, at its next step if it is running."""

    invocation: int
    status: str


class DueNow(BaseModel):
    """An invocation that is due now, ahead of time. Its function's flow control still applies."""

    invocation: int


class BulkBody(Body):
    """Which invocations; all given conditions must be met."""

    function: str | None = None
    status: list[str] = Field(default_factory=list, max_length=len(STATUSES))
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None
    error: str | None = Field(default=None, description="A text that the error contains.")
    filter: str | None = Field(
        default=None,
        description="An SQL/JSON path predicate over the event.",
        examples=['$.data.country == "CH"'],
    )
    events: list[str] = Field(default_factory=list, max_length=10_000)
    invocations: list[Annotated[int, Field(ge=1, lt=2**63)]] = Field(
        default_factory=list, max_length=10_000
    )
    dry_run: bool = Field(default=False, description="Only count the invocations.")
    keep_steps: bool = Field(default=False, description="For replay: keep completed steps.")


class BulkCount(BaseModel):
    """How many invocations a bulk action would affect."""

    total: int


class BulkProgress(BaseModel):
    """A bulk action: how many invocations it affects, and how many are done."""

    bulk: str
    total: int
    done: int
    finished: bool


class BulkView(BulkProgress):
    """A bulk action with its selection."""

    action: str
    selection: dict[str, Any]
    started_at: datetime


class Bulks(BaseModel):
    """The latest bulk actions."""

    bulks: list[BulkView]


class Paused(BaseModel):
    """Whether a function is paused."""

    function: str
    paused: bool


async def replay_event(call: Call) -> Replayed:
    """Replay what an event triggered."""
    body: ReplayEventBody = call.body
    invocations = await run_in_threadpool(
        replay_all_of, call.path("id"), body.function, call.caller, keep=body.keep_steps
    )
    return Replayed(invocations=invocations)


async def replay_invocation(call: Call) -> Replayed:
    """Replay one invocation."""
    body: ReplayBody = call.body
    invocations = await run_in_threadpool(
        replay_one, call.path("id"), call.caller, keep=body.keep_steps
    )
    return Replayed(invocations=invocations)


def replay_all_of(event_id: str, function: str | None, caller: Key, *, keep: bool) -> list[int]:
    """Replay an event's invocations of one function, or (None) of all; return the new ones.

    Raises `HttpError` if none of them is final. Here and below, what the caller's key may not
    access counts as missing.
    """
    event_of(event_id, caller)
    with database.connection() as connection:
        rows = fetch_all(connection, "replay_event", event=event_id, function=function, keep=keep)
    return _replayed(rows)


def replay_one(invocation_id: str, caller: Key, *, keep: bool) -> list[int]:
    """Replay an invocation; return the new one. Raises `HttpError` if missing or not final."""
    invocation, _ = status_of(invocation_id, caller)
    with database.connection() as connection:
        rows = fetch_all(connection, "replay_invocations", invocations=[invocation], keep=keep)
    return _replayed(rows)


async def cancel(call: Call) -> Cancelled:
    """Cancel one invocation."""
    invocation, status = await run_in_threadpool(cancel_open, call.path("id"), call.caller)
    return Cancelled(invocation=invocation, status=status)


def cancel_open(invocation_id: str, caller: Key) -> tuple[int, str]:
    """Cancel an invocation; return its id and new status.

    Raises `HttpError` if it is missing or final already.
    """
    cancelled = cancel_invocation(invocation_id, caller)
    invocation, status = status_of(invocation_id, caller)
    if not cancelled and status in FINAL:
        raise HttpError(409, "already_finished", f"invocation {invocation} is already {status}")
    return invocation, status


def cancel_invocation(invocation_id: str, caller: Key) -> bool:
    """Cancel an invocation; return whether it was open. Raises `HttpError` if it is missing."""
    invocation, _ = status_of(invocation_id, caller)
    with database.connection() as connection:
        [row] = fetch_all(
            connection, "cancel_invocations", invocations=[invocation], reason="cancelled over HTTP"
        )
    return bool(row["count"])


def dismiss_failed(invocation_id: str, caller: Key) -> int:
    """Take an invocation off the list of dead letters, with its group; return its id.

    Raises `HttpError` if it is missing or has not failed.
    """
    invocation, status = status_of(invocation_id, caller)
    if status != "failed":
        message = f"invocation {invocation} is {status}: only a failure is dismissed"
        raise HttpError(409, "not_failed", message)
    with database.connection() as connection:
        fetch_all(connection, "dismiss_invocations", invocations=[invocation])
    return invocation


async def run_now(call: Call) -> DueNow:
    """Run one invocation ahead of time."""
    invocation = await run_in_threadpool(run_invocation_now, call.path("id"), call.caller)
    return DueNow(invocation=invocation)


def run_invocation_now(invocation_id: str, caller: Key) -> int:
    """Run an invocation now that is queued for later or sleeping; return its id.

    Raises `HttpError` if it is missing, or neither queued for later nor sleeping.
    """
    invocation, status = status_of(invocation_id, caller)
    with database.connection() as connection:
        if not fetch_all(connection, "run_invocations_now", invocations=[invocation]):
            message = f"invocation {invocation} is {status}: there is no wait to skip"
            raise HttpError(409, "nothing_to_skip", message)
    return invocation


async def bulk_action(action: Action, call: Call) -> Response:
    """Count the invocations, or start a bulk action, which continues in the background."""
    check_for_all_events(call.caller)
    body: BulkBody = call.body
    selection = Selection(
        function=body.function,
        status=tuple(body.status),
        since=body.since,
        until=body.until,
        error=body.error,
        filter=body.filter,
        events=tuple(body.events),
        invocations=tuple(body.invocations),
    )
    if body.dry_run:
        count = partial(bulk.count, selection, action, timeout=QUERY_SECONDS)
        return json_response(BulkCount(total=await run_in_threadpool(count)))
    return json_response(await start(call, selection, action, keep=body.keep_steps), 202)


async def start(
    call: Call, selection: Selection, action: Action, *, keep: bool = False
) -> BulkProgress:
    """Start a bulk action; it continues in the background.

    Raises `HttpError` for a key that is restricted to some events.
    """
    check_for_all_events(call.caller)
    return await _run(call, bulk.perform(selection, action, keep_steps=keep, timeout=QUERY_SECONDS))


async def resume_bulk(call: Call) -> BulkProgress:
    """Resume an interrupted bulk action."""
    check_for_all_events(call.caller)
    view = await run_in_threadpool(_bulk, call.path("id"))
    return await _run(call, bulk.resume(view.bulk, timeout=QUERY_SECONDS))


async def _run(call: Call, pieces: Iterator[Progress]) -> BulkProgress:
    """Do the first piece of a bulk action now, and the others in the background."""
    first = await run_in_threadpool(next, pieces)
    call.services.background.run(pieces)
    return BulkProgress(
        bulk=first.bulk, total=first.total, done=first.done, finished=first.finished
    )


async def bulks(call: Call) -> Bulks:
    """The latest bulk actions."""
    check_for_all_events(call.caller)
    return Bulks(bulks=[_bulk_view(row) for row in await run_in_threadpool(bulk.bulks)])


async def one_bulk(call: Call) -> BulkView:
    """One bulk action."""
    check_for_all_events(call.caller)
    return await run_in_threadpool(_bulk, call.path("id"))


async def pause(call: Call) -> Paused:
    """Pause a function."""
    return await _set_paused(call, True)


async def resume(call: Call) -> Paused:
    """Resume a function."""
    return await _set_paused(call, False)


async def _set_paused(call: Call, paused: bool) -> Paused:
    check_for_all_events(call.caller)
    if not await run_in_threadpool(set_paused, call.path("id"), paused):
        raise not_found("function", call.path("id"))
    return Paused(function=call.path("id"), paused=paused)


def _replayed(rows: list[Row]) -> list[int]:
    if not rows:
        raise HttpError(
            409,
            "not_finished",
            "there is nothing to replay: no invocation is final yet. Cancel it first, or wait",
        )
    return [row["id"] for row in rows]


def _bulk(bulk_id: str) -> BulkView:
    with database.connection() as connection:
        row = fetch_one(connection, "bulk_status", id=bulk_id)
    if row is None:
        raise not_found("bulk action", bulk_id)
    return _bulk_view(row)


def _bulk_view(row: dict[str, Any]) -> BulkView:
    return BulkView(
        bulk=row["id"],
        total=row["total"],
        done=row["done"],
        finished=row["finished_at"] is not None,
        action=row["action"],
        selection=row["selection"],
        started_at=row["started_at"],
    )


_GROUP = "Replay and cancel"
ENDPOINTS = [
    Endpoint(
        "POST",
        "/api/events/{id}/replay",
        replay_event,
        _GROUP,
        "Replay what an event triggered.",
        "manage",
        body=ReplayEventBody,
        response=Replayed,
        errors=(409,),
    ),
    Endpoint(
        "POST",
        "/api/invocations/{id}/replay",
        replay_invocation,
        _GROUP,
        "Replay an invocation.",
        "manage",
        body=ReplayBody,
        response=Replayed,
        errors=(409,),
    ),
    Endpoint(
        "POST",
        "/api/invocations/{id}/cancel",
        cancel,
        _GROUP,
        "Cancel an invocation.",
        "manage",
        response=Cancelled,
        errors=(409,),
    ),
    Endpoint(
        "POST",
        "/api/invocations/{id}/run-now",
        run_now,
        _GROUP,
        "Run an invocation now that is sleeping, or queued for later.",
        "manage",
        response=DueNow,
        errors=(409,),
    ),
    Endpoint("GET", "/api/bulk", bulks, _GROUP, "The latest bulk actions.", "read", response=Bulks),
    Endpoint(
        "GET", "/api/bulk/{id}", one_bulk, _GROUP, "A bulk action.", "read", response=BulkView
    ),
    *[
        Endpoint(
            "POST",
            f"/api/bulk/{action}",
            partial(bulk_action, action),
            _GROUP,
            summary,
            "manage",
            body=BulkBody,
            response=BulkProgress,
            status=202,
            other_responses={200: ("With `dry_run`: how many invocations there are.", BulkCount)},
        )
        for action, summary in _ACTIONS.items()
    ],
    Endpoint(
        "POST",
        "/api/bulk/{id}/resume",
        resume_bulk,
        _GROUP,
        "Resume an interrupted bulk action.",
        "manage",
        response=BulkProgress,
    ),
    Endpoint(
        "POST",
        "/api/functions/{id}/pause",
        pause,
        "Functions",
        "Pause a function: its invocations stay queued.",
        "manage",
        response=Paused,
    ),
    Endpoint(
        "POST",
        "/api/functions/{id}/resume",
        resume,
        "Functions",
        "Resume a function.",
        "manage",
        response=Paused,
    ),
]
