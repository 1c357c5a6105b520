"""Webhooks' payloads that are too large for an event: kept in a table, and the event says where.

A function reads the whole with `read_payload(item.data["payload_ref"])`.
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

# What an event holds of a payload that is kept elsewhere: in all, and of one field.
_SUMMARY_BYTES = 128 * 1024
_FIELD_BYTES = 16 * 1024
_MOST_NAMED = 100
_LONGEST_NAME = 200
_CHUNK = 100


def event_of(
    connection: Connection, name: str, payload: Any, delivery: str, ts: int | None = None
) -> Event:
    """An event with a payload as its data; of one that is too large its small fields, and the payload is kept in the same transaction.

    `delivery` is the event's id, and that of the payload.
    """
    if not isinstance(payload, Mapping):
        return Event(name, payload, id=delivery, ts=ts)  # which refuses it
    encoded = to_json(payload)
    if len(encoded) <= MAX_EVENT_BYTES:
        return Event(name, payload, id=delivery, ts=ts)
    # by webhook_payloads_pkey: a delivery that comes twice is kept once, and from then on as long as its latest event
    statement = """
        INSERT INTO app.webhook_payloads (id, bytes, payload, received_at)
        VALUES (%s, %s, convert_from(%s, 'UTF8')::jsonb, runyard.now())
        ON CONFLICT (id) DO UPDATE SET received_at = excluded.received_at"""
    connection.execute(statement, (delivery, len(encoded), encoded))
    small, left_out = _small_fields(payload, _SUMMARY_BYTES)
    more = {
        "payload_ref": delivery,
        "payload_bytes": len(encoded),
        "truncated": left_out[:_MOST_NAMED],
    }
    return Event(name, {**small, **more}, id=delivery, ts=ts)


def read_payload(reference: str) -> Any:
    """The whole payload behind an event's `payload_ref`; raises `NonRetriable` where its time is over."""
    with database.connection() as connection:
        # by webhook_payloads_pkey
        row = connection.execute(
            "SELECT payload FROM app.webhook_payloads WHERE id = %s", (reference,)
        ).fetchone()
    if row is None:
        raise NonRetriable(f"the payload {reference} is not kept any more (RUNYARD_RETENTION)")
    return row["payload"]


def sweep_payloads(before: datetime, *, dry_run: bool = False) -> int:
    """Delete payloads that came before a time, or only count them; return how many."""
    old = "FROM app.webhook_payloads WHERE received_at < %s"
    if dry_run:
        with database.connection() as connection:
            # by webhook_payloads_received_at
            row = connection.execute(f"SELECT count(*) AS n {old}".encode(), (before,)).fetchone()
        return int(str(row["n"])) if row else 0
    # by webhook_payloads_received_at and webhook_payloads_pkey; some at a time, for each may have 25 MB
    statement = f"DELETE FROM app.webhook_payloads WHERE id IN (SELECT id {old} ORDER BY received_at LIMIT {_CHUNK})"  # noqa: S608
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
    """The fields that fit, and the paths of those that were left out; of a large object at the top its own small fields."""
    kept: dict[str, Any] = {}
    left_out: list[str] = []
    for name, value in fields.items():
        place = f"{path}{name[:_LONGEST_NAME]}"
        size = len(to_json({name: value}))
        if size <= min(room, _FIELD_BYTES):
            kept[name] = value
        elif isinstance(value, Mapping) and not path:
            kept[name], inner = _small_fields(value, min(room, _FIELD_BYTES), f"{place}.")
            size = len(to_json({name: kept[name]}))
            left_out += inner
        else:
            left_out.append(place)
            continue
        room -= size
    return kept, left_out
