"""Claims of queued invocations: each becomes a batch, which one run is launched for.

A claim is a lease whose fencing token is the batch id (see `batch_leases`).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import psycopg

from runyard.events import new_ulid
from runyard.functions.registry import Function
from runyard.settings import settings
from runyard.store import database
from runyard.store.queries import Connection, Row, fetch_all, fetch_one

# Batches that may wait for a free slot, per slot: enough that no slot idles while the daemon makes
# the next runs, few enough that events which arrive meanwhile still join a larger batch.
WAITING_PER_SLOT = 1
_SLOTS_WITHOUT_WORKERS = 2
# One claim looks at 150 waiting lanes. After 15,000 blocked lanes the claim ends with nothing, and
# the next one continues from there.
_MAX_LANE_CLAIMS = 100
# How long a tick goes on claiming before it launches what it has: hundreds of batches take seconds.
_CLAIM_SECONDS = 0.5
# How long the broker may take to answer a process that launches a run. It is asked up to three
# times: over the present connection, for another one, and over that.
ANSWER_SECONDS = 2.0
_MOST_QUESTIONS = 3
_SPARE_SECONDS = 0.5
# How long a tick of the daemon has to launch what it claimed, even if the broker hangs. After that
# a batch no longer counts as waiting, and its invocations may be claimed again.
LAUNCH_SECONDS = _CLAIM_SECONDS + _MOST_QUESTIONS * ANSWER_SECONDS + _SPARE_SECONDS

T = TypeVar("T")


@dataclass(frozen=True)
class Claim:
    """A batch that was claimed.

    Attributes
    ----------
    batch_id
        Its id.
    size
        How many invocations it has.
    event_id
        The event, when there is only one invocation.
    previous_run
        The run that worked on its invocations before, when there is only one.
    alone
        Whether its invocations are suspected of having crashed their workers. They are claimed
        apart from others, which may be due as well.
    """

    batch_id: str
    size: int
    event_id: str | None
    previous_run: str | None = None
    alone: bool = False


@dataclass(frozen=True)
class Capacity:
    """What the living workers can take of one kind of functions.

    Those of the project's code and those of applications have slots of their own.

    Attributes
    ----------
    slots
        How many runs they can execute at a time; 0 when none is alive.
    waiting, running
        How many batches wait for a slot, and how many are running.
    """

    slots: int
    waiting: int
    running: int

    @property
    def room(self) -> int:
        """How many more batches the workers can soon take; negative: too many wait already."""
        slots = self.slots or _SLOTS_WITHOUT_WORKERS
        idle = max(0, slots - self.running)
        return idle + slots * WAITING_PER_SLOT - self.waiting


@dataclass(frozen=True)
class Capacities:
    """What the living workers can take.

    Attributes
    ----------
    local, remote
        Of functions of the project's code, and of those of applications.
    """

    local: Capacity
    remote: Capacity

    def of(self, remote: bool) -> Capacity:
        """The capacity for one kind of functions."""
        return self.remote if remote else self.local


class Claimable(Protocol):
    """What a claim needs to know of a function: see `registry.Function`."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def largest(self) -> int:
        """How many invocations a batch takes at most."""

    @property
    def uses_lanes(self) -> bool:
        """Whether its flow control puts invocations into lanes."""


def claim(function: Function, *, remote: bool = False) -> list[Claim] | None:
    """Claim due invocations of a function, in as many batches as the workers can soon take.

    `remote` says that it is a function of an application. Returns an empty list when no invocation
    may run now, and None when enough batches are waiting for the workers already.
    """
    with database.connection() as connection:
        most = capacities(connection).of(remote).room
        return claim_some(connection, function, most) if most > 0 else None


def capacities(connection: Connection) -> Capacities:
    """Return what the living workers can take, and what they have."""
    rows = fetch_all(connection, "capacity", lease=settings().lease_seconds, launch=LAUNCH_SECONDS)
    local, remote = (
        Capacity(int(row["slots"]), int(row["waiting"]), int(row["running"])) for row in rows
    )
    return Capacities(local, remote)


def claim_some(
    connection: Connection, function: Claimable, most: int, seconds: float = _CLAIM_SECONDS
) -> list[Claim]:
    """Claim due invocations of a function in up to `most` batches.

    After so many seconds it claims no other batch: the first ones are to be launched in time.
    """
    claims: list[Claim] = []
    until = time.monotonic() + seconds
    while len(claims) < most and (not claims or time.monotonic() < until):
        claimed = _claim_one(connection, function, None)
        if claimed is None:
            break
        claims.append(claimed)
        is_last = claimed.size < function.largest and not claimed.alone
        if is_last and not function.uses_lanes:
            break
    return claims


def _claim_one(
    connection: Connection, function: Claimable, just: Sequence[int] | None
) -> Claim | None:
    batch_id = new_ulid()
    parameters: dict[str, Any] = {
        "function": function.name,
        "max_batch": function.largest,
        "batch": batch_id,
    }
    if function.uses_lanes:
        row = _claim_lanes(connection, just, parameters)
    elif just is not None:
        row = fetch_one(
            connection, "claim_invocations", just=just, function=function.name, batch=batch_id
        )
    else:
        row = fetch_one(connection, "claim", **parameters)
    if row is None or not row["size"]:
        return None
    return Claim(
        batch_id,
        row["size"],
        row.get("event_id") if row["size"] == 1 else None,
        row.get("previous_run"),
        row.get("alone", False),
    )


def _claim_lanes(
    connection: Connection, just: Sequence[int] | None, parameters: dict[str, Any]
) -> Row | None:
    """Claim by lanes, passing over those that are blocked now."""
    row: Row | None = None
    for _ in range(_MAX_LANE_CLAIMS):
        row = _unless_deadlocked(
            connection, lambda: fetch_one(connection, "claim_lanes", just=just, **parameters)
        )
        if row is None or row["size"] or not row["more"]:
            break
    return row


def _unless_deadlocked(connection: Connection, do: Callable[[], T]) -> T:
    """Retry once after a deadlock: bulk cancels and claims of singletons may lock the same rows.

    The first attempt has a savepoint, so that the connection's transaction can continue.
    """
    try:
        with connection.transaction():
            return do()
    except psycopg.errors.DeadlockDetected:
        return do()


def claim_events(function: Function, events_json: str, source: str) -> str | None:
    """Insert events and claim their invocations of one function at once; return the batch id.

    Returns None when flow control lets none of them run now: they stay queued, and the function's
    sensor launches them in their turn.
    """
    with database.transaction() as connection:
        events = fetch_all(connection, "send", events=events_json, source=source)
        invocations = fetch_all(
            connection,
            "invocations_of_events",
            events=[row["id"] for row in events],
            function=function.name,
        )
        claimed = _claim_one(connection, function, [row["id"] for row in invocations])
    return None if claimed is None else claimed.batch_id


def claim_replay(function: Function, parent_batch: str) -> str | None:
    """Replay the events of a batch, and claim the new invocations; returns as `claim_events`."""
    return _claim_from("replay_batch", function, parent_batch)


def claim_unfinished(function: Function, parent_batch: str) -> str | None:
    """Claim what failed or was cancelled in a batch, or awaits another attempt.

    Returns the new batch id, or None when there is nothing to claim.
    """
    return _claim_from("requeue_batch", function, parent_batch)


def _claim_from(statement: str, function: Function, parent_batch: str) -> str | None:
    with database.transaction() as connection:
        ids = [row["id"] for row in fetch_all(connection, statement, parent=parent_batch)]
        claimed = _claim_one(connection, function, ids) if ids else None
    return None if claimed is None else claimed.batch_id
