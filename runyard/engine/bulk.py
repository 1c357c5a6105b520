"""Bulk actions: replay, cancel or dismiss every invocation of a selection.

A bulk first counts its selection and then works through it in chunks. Each chunk is one
transaction, which also records how far the bulk has come: one that was stopped resumes where it
was, and acts on no invocation twice.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, Literal, Self

import psycopg

from runyard.engine.status import (
    CANCELLABLE,
    DISMISSIBLE,
    REPLAYABLE,
    REPLAYED_BY_DEFAULT,
    STATUSES,
)
from runyard.errors import InvalidOption, RunyardError
from runyard.events import new_ulid
from runyard.store import database
from runyard.store.queries import Row, fetch_all, fetch_one
from runyard.syntax.jsonpath import check_filter

CHUNK = 500
Action = Literal["replay", "cancel", "dismiss"]
_APPLICABLE = {"replay": REPLAYABLE, "cancel": CANCELLABLE, "dismiss": DISMISSIBLE}


@dataclass(frozen=True)
class Selection:
    """Which invocations to act on: those that meet every condition given.

    Parameters
    ----------
    function
        The function's name.
    status
        One or more statuses. Default: those that the action applies to; for a replay without
        events, invocations or `since`, only `failed` and `cancelled`.
    since, until
        When the event was received: from `since` until before `until`, with time zones.
    error
        Text that the error message contains, ignoring case.
    filter
        SQL/JSON path over the event: `$.data.country == "CH"`.
    events, invocations
        The ids of events, or of invocations.

    Raises
    ------
    InvalidOption
        A condition is malformed, or there is none.
    """

    function: str | None = None
    status: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    error: str | None = None
    filter: str | None = None
    events: tuple[str, ...] = ()
    invocations: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        unknown = [name for name in self.status if name not in STATUSES]
        if unknown:
            known = ", ".join(STATUSES)
            raise InvalidOption(f"status {unknown[0]!r} does not exist; use {known}")
        for name, at in (("since", self.since), ("until", self.until)):
            if at is not None and at.tzinfo is None:
                raise InvalidOption(f"{name}: give a time with a time zone")
        if self.filter is not None:
            check_filter(self.filter, "filter")
        if not any(asdict(self).values()):
            raise InvalidOption(
                "select something: a function, a status, a time, an error, a filter, "
                "events or invocations"
            )

    def for_action(self, action: Action) -> Self:
        """Return the selection with its default statuses for an action.

        Raises `InvalidOption` for a status that the action does not apply to.
        """
        applicable = _APPLICABLE[action]
        wrong = [name for name in self.status if name not in applicable]
        if wrong:
            raise InvalidOption(
                f"cannot {action} invocations that are {wrong[0]}, only those that are "
                f"{', '.join(applicable)}"
            )
        # Repeating what succeeded has to be asked for.
        broad = not (self.events or self.invocations or self.since)
        default = REPLAYED_BY_DEFAULT if action == "replay" and broad else applicable
        return replace(self, status=self.status or default)

    def to_json(self) -> str:
        """Return the selection as it is stored with a bulk."""
        fields = asdict(self)
        for name in ("since", "until"):
            at = fields[name]
            fields[name] = at.isoformat() if at else None
        return json.dumps(fields)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """Return the selection that a bulk was started with."""
        times = {
            name: datetime.fromisoformat(fields[name]) if fields[name] else None
            for name in ("since", "until")
        }
        lists = {name: tuple(fields[name]) for name in ("status", "events", "invocations")}
        return cls(**{**fields, **times, **lists})


@dataclass(frozen=True)
class Progress:
    """How far a bulk has come.

    Attributes
    ----------
    bulk
        The bulk's id.
    total
        How many invocations it was started for.
    done
        How many it has acted on.
    finished
        Whether it has ended.
    """

    bulk: str
    total: int
    done: int
    finished: bool


def count(selection: Selection, action: Action, *, timeout: float | None = None) -> int:
    """Return how many invocations an action would apply to now, without changing anything.

    See `perform` for `timeout`.
    """
    with database.transaction() as connection:
        return _count(connection, selection.for_action(action), timeout)[0]


def perform(
    selection: Selection,
    action: Action,
    *,
    keep_steps: bool = False,
    timeout: float | None = None,
) -> Iterator[Progress]:
    """Start a bulk and work through it; yields the progress after each chunk.

    Parameters
    ----------
    keep_steps
        Whether a replay keeps the completed steps, so that they are not re-run.
    timeout
        Seconds that each query which looks for invocations may take, first for all of them and
        then for each chunk; psycopg's `QueryCanceled` is raised then. None: no limit.
    """
    selection = selection.for_action(action)
    bulk_id = new_ulid()
    with database.transaction() as connection:
        total, upto = _count(connection, selection, timeout)
        fetch_all(
            connection,
            "start_bulk",
            id=bulk_id,
            action=action,
            selection=json.dumps({**json.loads(selection.to_json()), "keep": keep_steps}),
            upto=upto,
            total=total,
        )
    yield Progress(bulk_id, total, 0, total == 0)
    if total:
        yield from resume(bulk_id, timeout=timeout)


def resume(bulk_id: str, *, timeout: float | None = None) -> Iterator[Progress]:
    """Resume a bulk that was stopped; yields the progress after each chunk.

    See `perform` for `timeout`. Raises `RunyardError` when there is no bulk with this id.
    """
    finished = False
    while not finished:
        progress = _next_chunk(bulk_id, timeout)
        finished = progress.finished
        yield progress


def _next_chunk(bulk_id: str, timeout: float | None) -> Progress:
    with database.transaction() as connection:
        with _limited(connection, timeout):
            # Waits while another process works on a chunk of the same bulk.
            row = fetch_one(connection, "bulk", id=bulk_id)
        if row is None:
            raise RunyardError(f"there is no bulk {bulk_id}; `runyard bulks` lists them")
        if row["finished_at"] is not None:
            return Progress(bulk_id, row["total"], row["done"], True)
        selection = dict(row["selection"])
        keep_steps = selection.pop("keep")
        with _limited(connection, timeout):
            invocations = fetch_all(
                connection,
                "select_invocations",
                **_parameters(Selection.from_json(selection)),
                after=row["reached"],
                upto=row["upto"],
                limit=CHUNK,
            )
        ids = [invocation["id"] for invocation in invocations]
        todo = ids
        if row["action"] == "replay" and row["reached"]:
            todo = _without_replayed(connection, ids, row["started_at"])
        done = _act(connection, row["action"], todo, keep_steps) if todo else 0
        updated = fetch_one(
            connection,
            "bulk_progress",
            id=bulk_id,
            reached=max(ids, default=row["upto"]),
            done=done,
            finished=len(ids) < CHUNK,
        )
    assert updated is not None
    finished = updated["finished_at"] is not None
    return Progress(bulk_id, updated["total"], updated["done"], finished)


def bulks() -> list[Row]:
    """Return the latest bulks, newest first."""
    with database.connection() as connection:
        return fetch_all(connection, "bulks")


def _act(
    connection: psycopg.Connection[Any], action: Action, ids: list[int], keep_steps: bool
) -> int:
    if action == "replay":
        return len(fetch_all(connection, "replay_invocations", invocations=ids, keep=keep_steps))
    if action == "cancel":
        reason = "cancelled in bulk"
        row = fetch_one(connection, "cancel_invocations", invocations=ids, reason=reason)
    else:
        row = fetch_one(connection, "dismiss_invocations", invocations=ids)
    return int(row["count"]) if row else 0


def _without_replayed(
    connection: psycopg.Connection[Any], ids: list[int], since: datetime
) -> list[int]:
    """Leave out what earlier chunks have replayed with its group."""
    rows = fetch_all(connection, "replayed_groups", invocations=ids, since=since)
    replayed = {row["id"] for row in rows}
    return [id for id in ids if id not in replayed]


@contextmanager
def _limited(connection: psycopg.Connection[Any], timeout: float | None) -> Iterator[None]:
    """Limit how long the queries of this block may take: a user's filter can take any time.

    What the same transaction does outside of the block has no limit.
    """
    if timeout is None:
        yield
        return
    connection.execute(f"SET LOCAL statement_timeout = '{timeout}s'".encode())
    yield
    connection.execute("SET LOCAL statement_timeout TO DEFAULT")


def _count(
    connection: psycopg.Connection[Any], selection: Selection, timeout: float | None
) -> tuple[int, int]:
    """Return the number of invocations selected, and the highest id among them."""
    try:
        with _limited(connection, timeout):
            row = fetch_one(connection, "count_invocations", **_parameters(selection))
    except (psycopg.errors.SyntaxError, psycopg.errors.InvalidRegularExpression) as error:
        raise InvalidOption(f"filter: {error.diag.message_primary}") from None
    assert row is not None
    if not row["count"] and selection.function is not None:
        raise_for_missing(connection, replace(selection, events=(), invocations=()))
    return int(row["count"]), int(row["upto"] or 0)


def raise_for_missing(connection: psycopg.Connection[Any], selection: Selection) -> None:
    """Raise `InvalidOption` that names a function, event or invocation that does not exist."""
    row = fetch_one(
        connection,
        "missing",
        function=selection.function,
        events=list(selection.events),
        invocations=list(selection.invocations),
    )
    if row is None:
        return
    hint = "see `runyard events`, or the page /dev"
    if row["kind"] == "function":
        hint = "`runyard functions` lists them"
    raise InvalidOption(f"there is no {row['kind']} {row['id']}; {hint}")


def _parameters(selection: Selection) -> dict[str, Any]:
    error = selection.error
    if error is not None:
        escaped = error.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        error = f"%{escaped}%"
    return {
        "function": selection.function,
        "statuses": list(selection.status),
        "since": selection.since,
        "before": selection.until,
        "error": error,
        "filter": selection.filter,
        "events": list(selection.events) or None,
        "invocations": list(selection.invocations) or None,
    }
