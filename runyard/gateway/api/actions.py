"""Doing again, and stopping: replay and cancel, one or many; pause and resume functions."""

from collections.abc import Iterator
from datetime import datetime
from functools import partial
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from runyard.engine import bulk, dispatch
from runyard.engine.api_keys import Key
from runyard.engine.bulk import Action, Progress, Selection
from runyard.gateway.api.history import event_of, status_of
from runyard.gateway.api.schemas import FINAL
from runyard.gateway.http.auth import check_for_all_events
from runyard.gateway.http.endpoint import Body, Call, Endpoint, json_response, not_found
from runyard.gateway.http.errors import HttpError
from runyard.store import database
from runyard.store.queries import Row, fetch_all, fetch_one

# A bulk may look for its invocations so long, all or a chunk of them: a filter can be made to take minutes, and holds a connection. The command line may wait.
MOST_SECONDS = 10
_ACTIONS: dict[Action, str] = {
    "replay": "Replay many.",
    "cancel": "Cancel many.",
    "dismiss": "Take many final failures off the list of dead letters.",
}


class ReplayBody(Body):
    """How to replay: from the start, or keeping the steps that are done."""

    keep_steps: bool = False


class ReplayEventBody(ReplayBody):
    """How to replay, and for which function; for all of them by default."""

    function: str | None = None


class Replayed(BaseModel):
    """The new invocations."""

    invocations: list[int]


class Cancelled(BaseModel):
    """What was cancelled: at once what waits; what runs leaves its run at the next step."""

    invocation: int
    status: str


class DueNow(BaseModel):
    """An invocation that was to wait longer, and is due now. Limits of its function still hold."""

    invocation: int


class BulkBody(Body):
    """Which invocations; everything that is given must hold."""

    function: str | None = None
    status: list[str] = Field(default_factory=list, max_length=9)
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None
    error: str | None = Field(default=None, description="Text that the error contains.")
    filter: str | None = Field(
        default=None,
        description="SQL/JSON path over the event.",
        examples=['$.data.country == "CH"'],
    )
    events: list[str] = Field(default_factory=list, max_length=10_000)
    invocations: list[Annotated[int, Field(ge=1, lt=2**63)]] = Field(
        default_factory=list, max_length=10_000
    )
    dry_run: bool = Field(default=False, description="Only say how many there are.")
    keep_steps: bool = Field(default=False, description="Replay: keep the steps that are done.")


class BulkCount(BaseModel):
    """How many invocations a bulk would be for."""

    total: int


class BulkProgress(BaseModel):
    """A bulk: how many it is for, how many it has done."""

    bulk: str
    total: int
    done: int
    finished: bool


class BulkView(BulkProgress):
    """A bulk, with what it is about."""

    action: str
    selection: dict[str, Any]
    started_at: datetime


class Bulks(BaseModel):
    """The latest bulks."""

    bulks: list[BulkView]


class Paused(BaseModel):
    """Whether a function is paused."""

    function: str
    paused: bool


async def replay_event(call: Call) -> Replayed:
    """Replay what an event has set off."""
    asked: ReplayEventBody = call.body

    return Replayed(
        invocations=await run_in_threadpool(
            replay_all_of, call.path("id"), asked.function, call.caller, keep=asked.keep_steps
        )
    )


async def replay_invocation(call: Call) -> Replayed:
    """Replay one invocation."""
    asked: ReplayBody = call.body

    return Replayed(
        invocations=await run_in_threadpool(
            replay_one, call.path("id"), call.caller, keep=asked.keep_steps
        )
    )


def replay_all_of(event_id: str, function: str | None, caller: Key, *, keep: bool) -> list[int]:
    """Replay what an event has set off, of one function or (None) of all; return the new invocations. Raises `HttpError` when nothing of it is final.

    Here and below, what the caller's key is not for is not there.
    """
    event_of(event_id, caller)
    with database.connection() as connection:
        return _replayed(
            fetch_all(connection, "replay_event", event=event_id, function=function, keep=keep)
        )


def replay_one(given: str, caller: Key, *, keep: bool) -> list[int]:
    """Replay the invocation with this id; return the new one. Raises `HttpError` when it is not final, or there is none."""
    invocation, _ = status_of(given, caller)
    with database.connection() as connection:
        return _replayed(fetch_all(connection, "replay_these", invocations=[invocation], keep=keep))


async def cancel(call: Call) -> Cancelled:
    """Cancel one invocation."""
    invocation, status = await run_in_threadpool(cancel_open, call.path("id"), call.caller)
    return Cancelled(invocation=invocation, status=status)


def cancel_open(given: str, caller: Key) -> tuple[int, str]:
    """Cancel the invocation with this id; return its id and how it stands then. Raises `HttpError` when it is final already, or there is none."""
    cancelled = cancel_invocation(given, caller)
    invocation, status = status_of(given, caller)
    if not cancelled and status in FINAL:
        raise HttpError(409, "already_finished", f"invocation {invocation} is {status} already")
    return invocation, status


def cancel_invocation(given: str, caller: Key) -> bool:
    """Cancel the invocation with this id; return whether it was open. Raises `HttpError` when there is none."""
    invocation, _ = status_of(given, caller)
    with database.connection() as connection:
        return bool(
            fetch_all(
                connection, "cancel_these", invocations=[invocation], reason="cancelled over HTTP"
            )[0]["count"]
        )


async def run_now(call: Call) -> DueNow:
    """Run one invocation before its time."""
    return DueNow(
        invocation=await run_in_threadpool(run_invocation_now, call.path("id"), call.caller)
    )


def run_invocation_now(given: str, caller: Key) -> int:
    """Run the invocation with this id now, if it is queued for later or sleeps; return its id. Raises `HttpError` when it does neither, or is none."""
    invocation, status = status_of(given, caller)
    with database.connection() as connection:
        if not fetch_all(connection, "run_these_now", invocations=[invocation]):
            raise HttpError(
                409,
                "nothing_to_skip",
                f"invocation {invocation} is {status}: it waits for no time that could be cut short",
            )
    return invocation


async def bulk_action(action: Action, call: Call) -> Response:
    """Count, or begin; what is begun goes on behind the answer."""
    check_for_all_events(call.caller)
    asked: BulkBody = call.body
    selection = Selection(
        function=asked.function,
        status=tuple(asked.status),
        since=asked.since,
        until=asked.until,
        error=asked.error,
        filter=asked.filter,
        events=tuple(asked.events),
        invocations=tuple(asked.invocations),
    )
    if asked.dry_run:
        return json_response(
            BulkCount(
                total=await run_in_threadpool(
                    partial(bulk.count, selection, action, most_seconds=MOST_SECONDS)
                )
            )
        )
    return json_response(await start(call, selection, action, keep=asked.keep_steps), 202)


async def start(
    call: Call, selection: Selection, action: Action, *, keep: bool = False
) -> BulkProgress:
    """Begin a bulk, and let it go on in the background. Raises `HttpError` for a key that is for some events only."""
    check_for_all_events(call.caller)
    return await _go_on(call, bulk.perform(selection, action, keep=keep, most_seconds=MOST_SECONDS))


async def resume_bulk(call: Call) -> BulkProgress:
    """Go on with a bulk that was stopped."""
    check_for_all_events(call.caller)
    return await _go_on(
        call,
        bulk.resume(
            (await run_in_threadpool(_bulk, call.path("id"))).bulk, most_seconds=MOST_SECONDS
        ),
    )


async def _go_on(call: Call, pieces: Iterator[Progress]) -> BulkProgress:
    """Do the first piece of a bulk, and the others behind the answer."""
    first = await run_in_threadpool(next, pieces)
    call.services.background.run(pieces)
    return BulkProgress(
        bulk=first.bulk, total=first.total, done=first.done, finished=first.finished
    )


async def bulks(call: Call) -> Bulks:
    """The latest bulks."""
    check_for_all_events(call.caller)
    return Bulks(bulks=[_bulk_view(row) for row in await run_in_threadpool(bulk.bulks)])


async def one_bulk(call: Call) -> BulkView:
    """One bulk."""
    check_for_all_events(call.caller)
    return await run_in_threadpool(_bulk, call.path("id"))


async def pause(call: Call) -> Paused:
    """Hold a function's invocations back."""
    return await _set_paused(call, True)


async def resume(call: Call) -> Paused:
    """Let them go."""
    return await _set_paused(call, False)


async def _set_paused(call: Call, paused: bool) -> Paused:
    check_for_all_events(call.caller)
    if not await run_in_threadpool(dispatch.pause, call.path("id"), paused):
        raise not_found("function", call.path("id"))
    return Paused(function=call.path("id"), paused=paused)


def _replayed(rows: list[Row]) -> list[int]:
    if not rows:
        raise HttpError(
            409,
            "not_finished",
            "there is nothing to replay: no invocation of it is final. Cancel it first, or wait",
        )
    return [row["id"] for row in rows]


def _bulk(bulk_id: str) -> BulkView:
    with database.connection() as connection:
        row = fetch_one(connection, "bulk_seen", id=bulk_id)
    if row is None:
        raise not_found("bulk", bulk_id)
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


_MANAGING = "Replay and cancel"
ENDPOINTS = [
    Endpoint(
        "POST",
        "/api/events/{id}/replay",
        replay_event,
        _MANAGING,
        "Replay what an event has set off.",
        "manage",
        body=ReplayEventBody,
        response=Replayed,
        errors=(409,),
    ),
    Endpoint(
        "POST",
        "/api/invocations/{id}/replay",
        replay_invocation,
        _MANAGING,
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
        _MANAGING,
        "Cancel an invocation.",
        "manage",
        response=Cancelled,
        errors=(409,),
    ),
    Endpoint(
        "POST",
        "/api/invocations/{id}/run-now",
        run_now,
        _MANAGING,
        "Run an invocation now that sleeps, or is queued for later.",
        "manage",
        response=DueNow,
        errors=(409,),
    ),
    Endpoint("GET", "/api/bulk", bulks, _MANAGING, "The latest bulks.", "read", response=Bulks),
    Endpoint("GET", "/api/bulk/{id}", one_bulk, _MANAGING, "A bulk.", "read", response=BulkView),
    *[
        Endpoint(
            "POST",
            f"/api/bulk/{action}",
            partial(bulk_action, action),
            _MANAGING,
            summary,
            "manage",
            body=BulkBody,
            response=BulkProgress,
            status=202,
            other_responses={200: ("how many there are (dry_run)", BulkCount)},
        )
        for action, summary in _ACTIONS.items()
    ],
    Endpoint(
        "POST",
        "/api/bulk/{id}/resume",
        resume_bulk,
        _MANAGING,
        "Go on with a bulk that was stopped.",
        "manage",
        response=BulkProgress,
    ),
    Endpoint(
        "POST",
        "/api/functions/{id}/pause",
        pause,
        "Functions",
        "Hold a function's invocations back.",
        "manage",
        response=Paused,
    ),
    Endpoint(
        "POST",
        "/api/functions/{id}/resume",
        resume,
        "Functions",
        "Let a function's invocations go.",
        "manage",
        response=Paused,
    ),
]
