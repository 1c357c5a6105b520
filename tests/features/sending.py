"""Send events to a function of these tests, and see in which batch and when they started."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from runyard import Event
from runyard.testing import Sent, Yard
from tests.tables import rows


def statuses(sent: list[Sent]) -> list[str]:
    """The statuses of the invocations of events."""
    return [each.invocation.status for each in sent]


def send(yard: Yard, function: str, *data: dict[str, Any]) -> list[Sent]:
    """Send events with these data to a function."""
    return yard.send_all([Event(f"{function}/go", fields) for fields in data])


def in_batch(batch: str) -> list[int]:
    """The invocations of a batch."""
    [row] = rows("SELECT invocations FROM runyard.batches WHERE id = %s", batch)
    return list(row["invocations"])


def seconds_to_start(began: datetime, invocations: Iterable[int]) -> list[float]:
    """How long after a time each of these invocations started."""
    query = "SELECT started_at - %s AS s FROM runyard.invocations WHERE id = ANY (%s) ORDER BY id"
    return [row["s"].total_seconds() for row in rows(query, began, list(invocations))]
