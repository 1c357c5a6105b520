"""The registration of waits in the event table: each once for a step of an invocation."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from runyard.engine.chunked_writes import bisect_rejected
from runyard.errors import LeaseLost
from runyard.store import database
from runyard.store.queries import Row, fetch_all, fetch_one


def register_waits(
    batch_id: str,
    run_id: str,
    step: str,
    requests: Sequence[Mapping[str, Any]],
    children: Callable[[set[int]], str | None] | None = None,
) -> list[Row]:
    """Register what invocations wait for at a step, each only once.

    Parameters
    ----------
    requests
        What `runyard.wait_v1` takes, for each invocation.
    children
        Given the invocations that have not registered this wait before, returns events to send
        along with it (see `rows_as_json`).

    Returns
    -------
    A row for each invocation: `invocation_id`, `done`, `expired`, `result`, `due`.

    Raises
    ------
    LeaseLost
        Another run has the batch; nothing is registered.
    """
    invocations = [request["invocation"] for request in requests]
    with database.transaction() as connection:
        fetch_all(connection, "lock_waits")
        if fetch_one(connection, "lock_lease", batch=batch_id, run=run_id) is None:
            raise LeaseLost(batch_id)
        if children is not None:
            rows = fetch_all(connection, "registered_waits", step=step, invocations=invocations)
            known = {row["invocation_id"] for row in rows}
            events = children(set(invocations) - known)
            if events is not None:
                fetch_all(connection, "send", events=events, source="step")
        return fetch_all(connection, "wait", step=step, waits=json.dumps(requests))


def register_storable_waits(
    batch_id: str,
    run_id: str,
    step: str,
    requests: Sequence[Mapping[str, Any]],
    children: Callable[[set[int]], str | None] | None = None,
) -> tuple[list[Row], dict[int, str]]:
    """Register waits like `register_waits`, except for those that the database rejects.

    Returns the rows, and the invocations whose waits were rejected, each with the reason.
    """
    rows: list[Row] = []

    def write(some: Sequence[Mapping[str, Any]]) -> None:
        rows.extend(register_waits(batch_id, run_id, step, some, children))

    rejected = bisect_rejected(requests, write)
    return rows, {request["invocation"]: reason for request, reason in rejected}
