"""`GET /api/invocations/{id}/stream`: what happens to an invocation, as server-sent events.

Messages are `status`, `step` and `progress`, and `done` at the end. The id of a message is a moment of the database: a client that comes back
with it in `Last-Event-ID` gets what has changed since then, whatever was committed in between, and nothing twice.
"""

import time
from collections.abc import AsyncIterator
from contextlib import aclosing

import psycopg
from pydantic_core import to_json
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from runyard.gateway.api.history import status_of
from runyard.gateway.api.schemas import FINAL
from runyard.gateway.http.endpoint import Call, Endpoint, event_stream
from runyard.store import database
from runyard.store.queries import Row, fetch_one

# A comment now and then tells proxies and clients that the stream lives.
_QUIET_SECONDS = 15.0
# A stream ends when its key does.
_LOOK_SECONDS = 2.0
# A moment names the transactions that were under way.
_LONGEST_MOMENT = 2000
_RETRY_MILLISECONDS = 1000
_LONGEST_SECONDS = 3600.0


async def stream(call: Call) -> Response:
    """The stream; 204 where the client has seen the end already, which tells a browser not to come back."""
    invocation, status = await run_in_threadpool(status_of, call.path("id"), call.caller)
    since = await run_in_threadpool(_moment, call.request.headers.get("last-event-id", ""))
    if (
        since is not None
        and status in FINAL
        and not await run_in_threadpool(_changed, invocation, since)
    ):
        return Response(status_code=204)
    call.services.watcher.check_capacity(call.caller.id)
    return event_stream(_messages(call, invocation, since))


async def _messages(call: Call, invocation: int, since: str | None) -> AsyncIterator[bytes]:
    yield b"retry: %d\n\n" % _RETRY_MILLISECONDS
    said_at = time.monotonic()
    until = said_at + _LONGEST_SECONDS
    async with aclosing(
        call.services.watcher.changes(invocation, since, _LOOK_SECONDS, call.caller.id)
    ) as changes:
        async for change in changes:
            if time.monotonic() > until or not await call.services.authenticator.is_still_valid(
                call.caller
            ):
                return
            if change is not None or time.monotonic() - said_at > _QUIET_SECONDS:
                said_at = time.monotonic()
                yield b": still here\n\n" if change is None else _as_messages(change)


def _as_messages(change: Row) -> bytes:
    """A change as messages; only the last one has the id, so that a change that came through in part comes again whole."""
    messages = [("progress", row) for row in change["progress"] or []] + [
        ("step", row) for row in change["steps"] or []
    ]
    if change["state"]:
        messages.append(("status", change["state"]))
    if change["final"]:
        messages.append(("done", {}))
    parts = [b"event: %s\ndata: %s\n" % (name.encode(), to_json(data)) for name, data in messages]
    return b"\n".join(parts) + b"id: %s\n\n" % change["moment"].encode()


def _moment(given: str) -> str | None:
    """The moment in a Last-Event-ID, None where it is none of this database's: then everything is sent."""
    if not given or len(given) > _LONGEST_MOMENT:
        return None
    try:
        with database.connection() as connection:
            row = fetch_one(connection, "known_moment", given=given)
    except psycopg.DataError:
        return None
    return str(row["given"]) if row is not None else None


def _changed(invocation: int, since: str) -> bool:
    with database.connection() as connection:
        row = fetch_one(
            connection,
            "changes",
            watched=to_json([{"number": 0, "invocation": invocation, "since": since}]).decode(),
        )
    return row is None or bool(row["state"] or row["steps"] or row["progress"])


ENDPOINTS = [
    Endpoint(
        "GET",
        "/api/invocations/{id}/stream",
        stream,
        "Stream",
        "Progress, steps and status of an invocation as server-sent events.",
        "read",
        media_types=("text/event-stream",),
        other_responses={204: ("the end was seen already", None)},
        headers={"Last-Event-ID": "The id of the last message that was seen."},
    )
]
