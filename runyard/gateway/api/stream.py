"""`GET /api/invocations/{id}/stream`: the changes of an invocation, as server-sent events.

Messages are `status`, `step` and `progress`, and `done` at the end. The id of a message is a
snapshot of the database: a client that reconnects with it in `Last-Event-ID` gets what has changed
since then, whatever was committed in between, and nothing twice.
"""

import time
from collections.abc import AsyncIterator
from contextlib import aclosing

import psycopg
from pydantic_core import to_json
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from runyard.engine.status import FINAL
from runyard.gateway.api.history import status_of
from runyard.gateway.http.endpoint import Call, Endpoint, event_stream
from runyard.store import database
from runyard.store.queries import Row, fetch_one

# A comment at this interval keeps proxies and clients from giving up on the stream.
_KEEPALIVE_SECONDS = 15.0
# How often the key is checked: a stream ends when its key is revoked.
_KEY_CHECK_SECONDS = 2.0
# A snapshot lists the transactions in progress, so its text has no fixed length.
_LONGEST_SNAPSHOT = 2000
_RETRY_MILLISECONDS = 1000
_MAX_SECONDS = 3600.0


async def stream(call: Call) -> Response:
    """The stream, or 204 if the client has seen its end, which keeps browsers from reconnecting."""
    invocation, status = await run_in_threadpool(status_of, call.path("id"), call.caller)
    since = await run_in_threadpool(_snapshot, call.request.headers.get("last-event-id", ""))
    ended = since is not None and status in FINAL
    if ended and not await run_in_threadpool(_has_changed, invocation, since):
        return Response(status_code=204)
    call.services.watcher.check_capacity(call.caller.id)
    return event_stream(_messages(call, invocation, since))


async def _messages(call: Call, invocation: int, since: str | None) -> AsyncIterator[bytes]:
    yield b"retry: %d\n\n" % _RETRY_MILLISECONDS
    sent_at = time.monotonic()
    until = sent_at + _MAX_SECONDS
    watcher, authenticator = call.services.watcher, call.services.authenticator
    async with aclosing(
        watcher.changes(invocation, since, _KEY_CHECK_SECONDS, call.caller.id)
    ) as changes:
        async for change in changes:
            if time.monotonic() > until or not await authenticator.is_still_valid(call.caller):
                return
            if change is not None or time.monotonic() - sent_at > _KEEPALIVE_SECONDS:
                sent_at = time.monotonic()
                yield b": still here\n\n" if change is None else _as_messages(change)


def _as_messages(change: Row) -> bytes:
    """A change as messages; only the last has the id, so that a partly sent change is repeated."""
    messages = [("progress", row) for row in change["progress"] or []]
    messages += [("step", row) for row in change["steps"] or []]
    if change["state"]:
        messages.append(("status", change["state"]))
    if change["final"]:
        messages.append(("done", {}))
    encoded = [b"event: %s\ndata: %s\n" % (name.encode(), to_json(data)) for name, data in messages]
    return b"\n".join(encoded) + b"id: %s\n\n" % change["moment"].encode()


def _snapshot(last_event_id: str) -> str | None:
    """The snapshot in a Last-Event-ID; None, for which everything is sent, if it is not one."""
    if not last_event_id or len(last_event_id) > _LONGEST_SNAPSHOT:
        return None
    try:
        with database.connection() as connection:
            row = fetch_one(connection, "past_snapshot", given=last_event_id)
    except psycopg.DataError:
        return None
    return str(row["given"]) if row is not None else None


def _has_changed(invocation: int, since: str | None) -> bool:
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
        "Progress, steps and status of an invocation, as server-sent events.",
        "read",
        media_types=("text/event-stream",),
        other_responses={204: ("The client has seen the end already.", None)},
        headers={"Last-Event-ID": "The id of the last message that the client has seen."},
    )
]
