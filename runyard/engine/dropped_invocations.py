"""Which invocations left a run's batch at which op: a run that is resumed leaves them out too."""

import json
from collections.abc import Mapping
from typing import Any

from runyard.store import database
from runyard.store.queries import fetch_all, fetch_one


def record_dropped(run_id: str, op: str, left: Mapping[str, Any]) -> None:
    """Record which invocations had left a run's batch when an op ended, and their waits.

    `left` has the invocations (`dropped`) and the waits (`suspended`).
    """
    with database.connection() as connection:
        fetch_all(connection, "remember_dropped", run=run_id, op=op, left=json.dumps(left))


def dropped_by_op(run_id: str) -> Mapping[str, Mapping[str, Any]]:
    """Return what `record_dropped` has recorded for a run's batch, by op."""
    with database.connection() as connection:
        row = fetch_one(connection, "dropped_by_op", run=run_id)
    return row["dropped_by_op"] if row else {}
