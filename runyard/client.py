"""Sends events from Python: synchronously or not, and inside the caller's own transaction.

::

    runyard.send("email/send.requested", {"to": ["ada@example.com"], "template": "welcome"})
    await runyard.send_async([Event(...), Event(...)])

    with engine.begin() as connection:                 # SQLAlchemy; or a psycopg connection
        connection.execute(insert(orders), order)
        runyard.send("order/placed", order, connection=connection)   # rolled back with the order

A send inserts all of its events or none.
"""

import asyncio
import inspect
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

import psycopg
from sqlalchemy import Connection as SqlConnection
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session

from runyard.errors import DatabaseBusy, DatabaseUnavailable, InvalidEvent
from runyard.events import Event, rows_as_json
from runyard.store import database
from runyard.store.queries import fetch_all
from runyard.store.schema_state import Compatibility, engine_state

Sendable = str | Event | Sequence[Event]
_MISSING = (
    psycopg.errors.InvalidSchemaName,
    psycopg.errors.UndefinedFunction,
    psycopg.errors.UndefinedTable,
)
_log = logging.getLogger("runyard.client")
_has_looked = threading.Event()
_SEND = "SELECT id FROM runyard.send_v1(CAST(:events AS jsonb), :source) AS id"


def send(
    what: Sendable,
    data: Mapping[str, Any] | None = None,
    *,
    id: str | None = None,
    ts: int | None = None,
    source: str = "python",
    connection: psycopg.Connection[Any] | SqlConnection | Session | None = None,
) -> list[str]:
    """Send events; return their ids, in order.

    Parameters
    ----------
    what
        The name of an event (whose `data`, `id` and `ts` follow), an `Event`, or several.
    data, id, ts
        See `Event`.
    source
        Where the events come from, as shown in the UI.
    connection
        A psycopg connection, or an SQLAlchemy connection or session: the events become part of its
        transaction, and are not sent unless that commits. None: a connection of Runyard's own,
        which commits before this returns.

    Raises
    ------
    InvalidEvent
        An event is invalid; nothing is sent.
    DatabaseUnavailable
        The database does not answer; nothing is sent. Or the connection was lost during the send
        and the database has not come back in time: then the message says that it is unknown whether
        the events were sent. Events with an `id` can safely be sent again.
    DatabaseBusy
        The database cannot do this now; nothing is sent.
    SchemaOutOfDate, SchemaUnusable
        The database is of a version that this code cannot send to; nothing is sent.
    """
    rows = rows_as_json(_events(what, data, id, ts))
    if isinstance(connection, SqlConnection | Session):
        return list(connection.execute(text(_SEND), {"events": rows, "source": source}).scalars())
    if connection is not None:
        cursor = connection.execute(_psycopg_statement(), {"events": rows, "source": source})
        return [_id(row) for row in cursor.fetchall()]
    return _send_alone(rows, source)


async def send_async(
    what: Sendable,
    data: Mapping[str, Any] | None = None,
    *,
    id: str | None = None,
    ts: int | None = None,
    source: str = "python",
    connection: psycopg.AsyncConnection[Any] | AsyncConnection | AsyncSession | None = None,
) -> list[str]:
    """Send events from a coroutine, like `send`, but with an async connection or session."""
    if connection is None:
        return await asyncio.to_thread(send, what, data, id=id, ts=ts, source=source)
    parameters = {"events": rows_as_json(_events(what, data, id, ts)), "source": source}
    if isinstance(connection, AsyncConnection | AsyncSession):
        return list((await connection.execute(text(_SEND), parameters)).scalars())
    cursor = await connection.execute(_psycopg_statement(), parameters)
    return [_id(row) for row in await cursor.fetchall()]


def _id(row: Any) -> str:
    """Return the id in a result row, which the caller's row factory may have made a mapping."""
    return str(row["id"] if isinstance(row, Mapping) else row[0])


def _send_alone(rows: str, source: str) -> list[str]:
    """Send events in a transaction of their own.

    This retries once after a lost connection, or a deadlock with another sender of the same ids.
    The rows have their ids already: if the first attempt did commit, the second inserts nothing and
    only returns the ids.
    """
    try:
        return _sent(rows, source)
    except DatabaseBusy as error:
        if not isinstance(error.__cause__, psycopg.errors.DeadlockDetected):
            raise
        # The other sender has to finish first, or the two deadlock again.
        time.sleep(database.GIVE_WAY_SECONDS)
        return _sent(rows, source)
    except DatabaseUnavailable as error:
        if not error.lost:
            raise
    try:
        return _sent(rows, source)
    except DatabaseUnavailable as error:
        raise DatabaseUnavailable(
            "the connection to the database was lost during a send: it is unknown whether the "
            "events were sent. Events with an `id` can safely be sent again"
        ) from error


def _sent(rows: str, source: str) -> list[str]:
    with database.connection() as own:
        try:
            ids = [row["id"] for row in fetch_all(own, "send", events=rows, source=source)]
        except _MISSING:
            state = engine_state(own)
            if state is not None:
                state.check()
            raise
        if not _has_looked.is_set():
            _look_at_schema(own)
        return ids


def _look_at_schema(own: database.Session) -> None:
    """Say once a process that the database is newer than this code, which can still send."""
    _has_looked.set()
    with suppress(psycopg.Error):
        state = engine_state(own)
        if state is not None and state.compatibility in (
            Compatibility.AHEAD,
            Compatibility.TOO_NEW,
        ):
            _log.warning("%s", state.describe())


def _psycopg_statement() -> bytes:
    return _SEND.replace(":events", "%(events)s").replace(":source", "%(source)s").encode()


def _events(
    what: Sendable, data: Mapping[str, Any] | None, id: str | None, ts: int | None
) -> Sequence[Event]:
    if isinstance(what, str):
        return [Event(what, data if data is not None else {}, id=id, ts=ts)]
    if data is not None or id is not None or ts is not None:
        raise InvalidEvent("data, id and ts go with an event's name; an Event has its own")
    if isinstance(what, Event):
        return [what]
    events = list(what)
    all_events = all(isinstance(cast(object, event), Event) for event in events)
    if not all_events or inspect.isgenerator(what):
        raise InvalidEvent("send takes a name with data, an Event, or a list of Events")
    return events
