"""Invocations of the functions that an application serves."""

from datetime import UTC, datetime
from typing import Any

from runyard import clock, send
from runyard.testing import Invocation
from tests import remote_work
from tests.tables import rows


def started(event: str, **data: Any) -> Invocation:
    """Send an event, and return its invocation."""
    [id] = send(event, data)
    return only(id)


def only(event: str) -> Invocation:
    """The one invocation of an event."""
    [row] = rows("SELECT id FROM runyard.invocations WHERE event_id = %s", event)
    return Invocation(row["id"])


def ran(event: str, **data: Any) -> Invocation:
    """Send an event, execute what is due, and return its invocation."""
    made = started(event, **data)
    remote_work.work()
    return made


def freeze() -> datetime:
    """Stop the time, and return it."""
    now = datetime.now(UTC)
    clock.freeze(now)
    return now
