"""The registration of waits in the event table: each once for a step of an invocation."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from runyard.engine.checkpoints import Pair
from runyard.engine.chunked_writes import bisect_rejected
from runyard.errors import LeaseLost
from runyard.store import database
from runyard.store.queries import Row, fetch_all, fetch_one

# Given those that have not registered the wait before, the events to send along with it.
Children = Callable[[set[int]], str | None]
PairChildren = Callable[[set[Pair]], str | None]


def register_waits(
    batch_id: str,
    run_id: str,
    step: str,
    requests: Sequence[Mapping[str, Any]],
    children: Children | None = None,
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
    return register_pairs(batch_id, run_id, _at_step(step, requests), _of_pairs(children))


def register_pairs(
    batch_id: str,
    run_id: str,
    requests: Sequence[Mapping[str, Any]],
    children: PairChildren | None = None,
) -> list[Row]:
    """Register what invocations wait for at any of their steps, each wait only once.

    Takes and returns what `register_waits` does, with the `step` in each request and each row, and
    pairs of an invocation and a step for `children`. An invocation that has left the batch
    registers nothing and has no row. Raises `LeaseLost`.
    """
    with database.transaction() as connection:
        fetch_all(connection, "lock_waits")
        lease = fetch_one(connection, "lock_lease", batch=batch_id, run=run_id)
        if lease is None:
            raise LeaseLost(batch_id)
        held = [row for row in requests if row["invocation"] not in lease["settled"]]
        pairs = {(request["invocation"], request["step"]) for request in held}
        if children is not None:
            events = children(pairs - _registered(connection, pairs))
            if events is not None:
                fetch_all(connection, "send", events=events, source="step")
        rows = fetch_all(connection, "wait", waits=json.dumps(held))
    return [row for row in rows if (row["invocation_id"], row["step"]) in pairs]


def _registered(connection: Any, pairs: set[Pair]) -> set[Pair]:
    rows = fetch_all(
        connection,
        "registered_waits",
        steps=sorted({step for _, step in pairs}),
        invocations=sorted({invocation for invocation, _ in pairs}),
    )
    return {(row["invocation_id"], row["step"]) for row in rows}


def register_storable_waits(
    batch_id: str,
    run_id: str,
    step: str,
    requests: Sequence[Mapping[str, Any]],
    children: Children | None = None,
) -> tuple[list[Row], dict[int, str]]:
    """Register waits like `register_waits`, except for those that the database rejects.

    Returns the rows, and the invocations whose waits were rejected, each with the reason.
    """
    rows, refused = register_storable_pairs(
        batch_id, run_id, _at_step(step, requests), _of_pairs(children)
    )
    return rows, {invocation: reason for (invocation, _), reason in refused.items()}


def register_storable_pairs(
    batch_id: str,
    run_id: str,
    requests: Sequence[Mapping[str, Any]],
    children: PairChildren | None = None,
) -> tuple[list[Row], dict[Pair, str]]:
    """Register waits like `register_pairs`, except for those that the database rejects.

    Returns the rows, and the pairs whose waits were rejected, each with the reason.
    """
    rows: list[Row] = []

    def write(some: Sequence[Mapping[str, Any]]) -> None:
        rows.extend(register_pairs(batch_id, run_id, some, children))

    rejected = bisect_rejected(requests, write)
    return rows, {(row["invocation"], row["step"]): reason for row, reason in rejected}


def finished_waits(batch_id: str, run_id: str, invocations: Sequence[int]) -> list[Row]:
    """Return the waits of invocations that are over, and not among their steps' results yet.

    They come in the order in which they ended, and stay registered until their invocation ends:
    one whose result is saved under its step is not returned again.

    Returns
    -------
    A row for each: `invocation_id`, `step`, `kind`, `result` (the document of the event that
    resolved it, None for a sleep) and `expired` (whether its time was over before that; also true
    of a sleep that has lasted).

    Raises
    ------
    LeaseLost
        Another run has the batch.
    """
    with database.connection() as connection:
        rows = fetch_all(
            connection, "finished_waits", batch=batch_id, run=run_id, invocations=list(invocations)
        )
    if not rows:
        raise LeaseLost(batch_id)
    return [row for row in rows if row["step"] is not None]


def _at_step(step: str, requests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{**request, "step": step} for request in requests]


def _of_pairs(children: Children | None) -> PairChildren | None:
    """Make a function of invocations one of pairs at a single step."""
    if children is None:
        return None
    return lambda pairs: children({invocation for invocation, _ in pairs})
