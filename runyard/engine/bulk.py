"""Many at once: replay, cancel or dismiss the invocations of a selection.

A selection is counted first. The work goes in chunks, each one transaction that also notes how far it has come; a bulk that was stopped
goes on where it was, and does nothing twice.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, Literal, Self

import psycopg

from runyard.errors import InvalidOption, RunyardError
from runyard.events import new_ulid
from runyard.store import database
from runyard.store.queries import Row, fetch_all, fetch_one
from runyard.syntax.jsonpath import check_filter

CHUNK = 500
Action = Literal["replay", "cancel", "dismiss"]
OPEN = ("queued", "claimed", "running", "sleeping", "waiting")
FINAL = ("succeeded", "failed", "cancelled", "skipped")
_FITTING = {"replay": FINAL, "cancel": OPEN, "dismiss": ("failed",)}


@dataclass(frozen=True)
class Selection:
    """Which invocations; everything that is given must hold.

    Parameters
    ----------
    function
        The function's name.
    status
        One or several statuses; those that the action fits by default.
    since, until
        When the event came, from and before.
    error
        Text that the error's message contains, in any case.
    filter
        SQL/JSON path over the event: `$.data.country == "CH"`.
    events, invocations
        The ids of events, or of invocations.
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
        unknown = [status for status in self.status if status not in OPEN + FINAL]
        if unknown:
            raise InvalidOption(f"status {unknown[0]!r}: give some of {', '.join(OPEN + FINAL)}")
        for name, at in (("since", self.since), ("until", self.until)):
            if at is not None and at.tzinfo is None:
                raise InvalidOption(f"{name}: give a time with its zone")
        if self.filter is not None:
            check_filter(self.filter, "filter")
        if not any(value for value in asdict(self).values()):
            raise InvalidOption(
                "select something: a function, a status, a time, an error, a filter, events or invocations"
            )

    def for_action(self, action: Action) -> Self:
        """The selection with the statuses that an action fits where none is given; raises `InvalidOption` for those that it does not."""
        wrong = [status for status in self.status if status not in _FITTING[action]]
        if wrong:
            raise InvalidOption(
                f"{action} is not for what is {wrong[0]}; it is for {', '.join(_FITTING[action])}"
            )
        # A replay of everything done again would do again what was done right: that must be said.
        default = (
            ("failed", "cancelled")
            if action == "replay" and not (self.events or self.invocations or self.since)
            else _FITTING[action]
        )
        return replace(self, status=self.status or default)

    def to_json(self) -> str:
        """The selection as it is kept with a bulk."""
        return json.dumps(
            {
                key: value.isoformat() if isinstance(value, datetime) else value
                for key, value in asdict(self).items()
            }
        )

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> Self:
        """The selection that a bulk was started with."""
        times = {
            key: datetime.fromisoformat(kept[key]) if kept[key] else None
            for key in ("since", "until")
        }
        return cls(
            **{
                **kept,
                **times,
                **{key: tuple(kept[key]) for key in ("status", "events", "invocations")},
            }
        )


@dataclass(frozen=True)
class Progress:
    """How far a bulk has come: its id, how many it was for, how many it has done, and whether it is over."""

    bulk: str
    total: int
    done: int
    finished: bool


def count(selection: Selection, action: Action, *, most_seconds: float | None = None) -> int:
    """How many invocations an action would meet now; nothing is changed. See `perform` for `most_seconds`."""
    with database.transaction() as connection:
        return _count(connection, selection.for_action(action), most_seconds)[0]


def perform(
    selection: Selection, action: Action, *, keep: bool = False, most_seconds: float | None = None
) -> Iterator[Progress]:
    """Do it, in chunks; gives the progress after each.

    Parameters
    ----------
    keep
        Whether a replay keeps the steps that are done.
    most_seconds
        How long it may look for the invocations, of all and then of each chunk; psycopg's QueryCanceled then. As long as it takes when None.
    """
    wanted = selection.for_action(action)
    bulk_id = new_ulid()
    with database.transaction() as connection:
        total, upto = _count(connection, wanted, most_seconds)
        fetch_all(
            connection,
            "start_bulk",
            id=bulk_id,
            action=action,
            selection=json.dumps({**json.loads(wanted.to_json()), "keep": keep}),
            upto=upto,
            total=total,
        )
    yield Progress(bulk_id, total, 0, total == 0)
    if total:
        yield from resume(bulk_id, most_seconds=most_seconds)


def resume(bulk_id: str, *, most_seconds: float | None = None) -> Iterator[Progress]:
    """Go on with a bulk that was stopped; raises `RunyardError` when there is none of this id. See `perform` for `most_seconds`."""
    while True:
        with database.transaction() as connection:
            with _looking(connection, most_seconds):
                row = fetch_one(
                    connection, "bulk", id=bulk_id
                )  # locked by another that goes on with it, for as long as a chunk takes
            if row is None:
                raise RunyardError(
                    f"there is no bulk {bulk_id}; `runyard bulks` lists those there are"
                )
            if row["finished_at"] is not None:
                yield Progress(bulk_id, row["total"], row["done"], True)
                return
            kept = dict(row["selection"])
            keep = kept.pop("keep")
            with _looking(connection, most_seconds):
                found = fetch_all(
                    connection,
                    "select_invocations",
                    **_parameters(Selection.from_json(kept)),
                    after=row["reached"],
                    upto=row["upto"],
                    limit=CHUNK,
                )
            ids = [invocation["id"] for invocation in found]
            done = _act(connection, row["action"], ids, keep) if ids else 0
            progress = fetch_one(
                connection,
                "bulk_progress",
                id=bulk_id,
                reached=max(ids, default=row["upto"]),
                done=done,
                finished=len(ids) < CHUNK,
            )
        assert progress is not None
        yield Progress(
            bulk_id, progress["total"], progress["done"], progress["finished_at"] is not None
        )
        if progress["finished_at"] is not None:
            return


def bulks() -> list[Row]:
    """The latest bulks, newest first."""
    with database.connection() as connection:
        return fetch_all(connection, "bulks")


def _act(connection: psycopg.Connection[Any], action: Action, ids: list[int], keep: bool) -> int:
    if action == "replay":
        return len(fetch_all(connection, "replay_invocations", invocations=ids, keep=keep))
    row = (
        fetch_one(connection, "cancel_invocations", invocations=ids, reason="cancelled in bulk")
        if action == "cancel"
        else fetch_one(connection, "dismiss_invocations", invocations=ids)
    )
    return int(row["count"]) if row else 0


@contextmanager
def _looking(connection: psycopg.Connection[Any], most_seconds: float | None) -> Iterator[None]:
    """A part of a transaction that looks for invocations: it may be given a time, for a filter can take any. What is done with them may take its own."""
    if most_seconds is None:
        yield
        return
    connection.execute(f"SET LOCAL statement_timeout = '{most_seconds}s'".encode())
    yield
    connection.execute("SET LOCAL statement_timeout TO DEFAULT")


def _count(
    connection: psycopg.Connection[Any], selection: Selection, most_seconds: float | None
) -> tuple[int, int]:
    try:
        with _looking(connection, most_seconds):
            row = fetch_one(connection, "count_invocations", **_parameters(selection))
    except (psycopg.errors.SyntaxError, psycopg.errors.InvalidRegularExpression) as error:
        raise InvalidOption(f"filter: {error.diag.message_primary}") from None
    assert row is not None
    if not row["count"] and selection.function is not None:
        raise_for_missing(connection, replace(selection, events=(), invocations=()))
    return int(row["count"]), int(row["upto"] or 0)


def raise_for_missing(connection: psycopg.Connection[Any], selection: Selection) -> None:
    """Raise `InvalidOption` that says which function, event or invocation of a selection there is not."""
    row = fetch_one(
        connection,
        "missing",
        function=selection.function,
        events=list(selection.events),
        invocations=list(selection.invocations),
    )
    if row is not None:
        lists = (
            "`runyard functions` lists them"
            if row["kind"] == "function"
            else "see `runyard events`, or the page /dev"
        )
        raise InvalidOption(f"there is no {row['kind']} {row['id']}; {lists}")


def _parameters(selection: Selection) -> dict[str, Any]:
    error = (
        None
        if selection.error is None
        else "%"
        + selection.error.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        + "%"
    )
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
