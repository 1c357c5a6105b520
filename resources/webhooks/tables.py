"""Webhook payloads that are too large for an event: saved in a table that the event refers to.

A function reads the whole payload with `read_payload(item.data["payload_ref"])`.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import psycopg
from pydantic_core import to_json

from runyard import Event
from runyard.errors import NonRetriable
from runyard.events import MAX_EVENT_BYTES
from runyard.store import database

Connection = psycopg.Connection[dict[str, object]]

# What an event contains of a payload that is saved elsewhere: in all, and of one field.
_SUMMARY_BYTES = 128 * 1024
_FIELD_BYTES = 16 * 1024
_MOST_NAMED = 100
_LONGEST_NAME = 200
_CHUNK = 100


def event_of(
    connection: Connection, name: str, payload: Any, delivery: str, ts: int | None = None
) -> Event:
    """An event with a payload as its data; of a large payload only its small fields.

    A large payload is saved in the same transaction. `delivery` is the id of both the event and
    the payload.
    """
    if not isinstance(payload, Mapping):
        return Event(name, payload, id=delivery, ts=ts)  # which raises the error
    encoded = to_json(payload)
    if len(encoded) <= MAX_EVENT_BYTES:
        return Event(name, payload, id=delivery, ts=ts)
    # by webhook_payloads_pkey; a repeated delivery is saved once, and as long as its latest event
    statement = """
        INSERT INTO app.webhook_payloads (id, bytes, payload, received_at)
        VALUES (%s, %s, convert_from(%s, 'UTF8')::jsonb, runyard.now())
        ON CONFLICT (id) DO UPDATE SET received_at = excluded.received_at"""
    connection.execute(statement, (delivery, len(encoded), encoded))
    small, dropped = _small_fields(payload, _SUMMARY_BYTES)
    more = {
        "payload_ref": delivery,
        "payload_bytes": len(encoded),
        "truncated": dropped[:_MOST_NAMED],
    }
    return Event(name, {**small, **more}, id=delivery, ts=ts)


def read_payload(reference: str) -> Any:
    """The whole payload behind a `payload_ref`; raises `NonRetriable` after its retention."""
    with database.connection() as connection:
        # by webhook_payloads_pkey
        row = connection.execute(
            "SELECT payload FROM app.webhook_payloads WHERE id = %s", (reference,)
        ).fetchone()
    if row is None:
        raise NonRetriable(f"the payload {reference} has been deleted (RUNYARD_RETENTION)")
    return row["payload"]


def sweep_payloads(before: datetime, *, dry_run: bool = False) -> int:
    """Delete payloads received before a time, or only count them; return how many."""
    old = "FROM app.webhook_payloads WHERE received_at < %s"
    if dry_run:
        with database.connection() as connection:
            # by webhook_payloads_received_at
            row = connection.execute(f"SELECT count(*) AS n {old}".encode(), (before,)).fetchone()
        return int(str(row["n"])) if row else 0
    # by webhook_payloads_received_at and webhook_payloads_pkey; in chunks: one may have 25 MB
    statement = f"""
        DELETE FROM app.webhook_payloads
        WHERE id IN (SELECT id {old} ORDER BY received_at LIMIT {_CHUNK})"""  # noqa: S608 (ours)
    gone = 0
    while True:
        with database.connection() as connection:
            deleted = connection.execute(statement.encode(), (before,)).rowcount
        gone += deleted
        if deleted < _CHUNK:
            return gone


def _small_fields(
    fields: Mapping[str, Any], room: int, path: str = ""
) -> tuple[dict[str, Any], list[str]]:
    """The fields that fit, and the paths of those that do not.

    Of a large object at the top level, its own small fields are included.
    """
    kept: dict[str, Any] = {}
    dropped: list[str] = []
    for name, value in fields.items():
        place = f"{path}{name[:_LONGEST_NAME]}"
        size = len(to_json({name: value}))
        if size <= min(room, _FIELD_BYTES):
            kept[name] = value
        elif isinstance(value, Mapping) and not path:
            kept[name], inner = _small_fields(value, min(room, _FIELD_BYTES), f"{place}.")
            size = len(to_json({name: kept[name]}))
            dropped += inner
        else:
            dropped.append(place)
            continue
        room -= size
    return kept, dropped
