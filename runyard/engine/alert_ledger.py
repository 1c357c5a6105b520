"""Which failures a receiver of alerts has been told of, in the database.

Failures of functions are counted (`runyard.tallies`), so what is new is a difference of
two numbers: nothing is written when an invocation fails, and none is missed while nobody looks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

from runyard.engine.failures import described
from runyard.store import database
from runyard.store.queries import Row, fetch_all, fetch_one

RUNS = "runs"
# No receiver is told of the same function more often.
INTERVAL = timedelta(minutes=1)
# A receiver for which nobody has looked for longer begins anew, as one that was just added.
_FORGOTTEN = timedelta(days=1)
# Failures among which the first is looked for.
MOST_LATEST = 1_000
_LOOKED = ""  # the source whose row says when failures were last looked for


@dataclass(frozen=True)
class FailedFunction:
    """New failures of a function.

    Attributes
    ----------
    name
        The function.
    count
        How many invocations have failed for good.
    total
        How many ever have, by now.
    since
        When the first of the new ones failed, or since when they can have.
    error
        The error of that one in a line, or, of more than `MOST_LATEST`, of one of the latest; empty
        when it is gone, dismissed or replayed.
    invocation
        Its id.
    """

    name: str
    count: int
    total: int
    since: datetime
    error: str = ""
    invocation: int | None = None


class Ledger:
    """What one receiver has been told, as of the time `now`.

    Parameters
    ----------
    receiver
        The receiver's address, of which a hash is stored.
    """

    def __init__(self, receiver: str) -> None:
        self._target = sha256(receiver.encode()).hexdigest()[:32]
        with database.connection() as connection:
            rows = fetch_all(connection, "alerts", target=self._target)
            time = fetch_one(connection, "now")
        assert time is not None
        self.now: datetime = time["now"]
        self._rows: dict[str, Row] = {row["source"]: row for row in rows}

    @property
    def is_new(self) -> bool:
        """Whether the receiver has to be told nothing of what has failed so far."""
        looked = self._rows.get(_LOOKED)
        return looked is None or self.now - looked["since"] > _FORGOTTEN

    def begin(self, last_run_event: int) -> None:
        """Pass over everything that has failed so far."""
        seen = {_of_function(name): count for name, count in _counts().items()}
        self._mark({**seen, RUNS: last_run_event, _LOOKED: 0}, sent=False)

    def failed_functions(self) -> list[FailedFunction]:
        """The functions with new failures that may be told by now."""
        failed = []
        for name, total in _counts().items():
            source = _of_function(name)
            row = self._rows.get(source) or self._add(source)
            seen = row["seen"]
            if total < seen:  # the counters have begun anew
                self._mark({source: total}, sent=False)
            elif total > seen and self.may_notify(source):
                failed.append(self._failed(name, row, total - seen, total))
        return failed

    def _add(self, source: str) -> Row:
        """A row for a function whose first failures have come since the last look."""
        since = self._rows[_LOOKED]["since"]
        self._mark({source: 0}, sent=False, since=since)
        return {"source": source, "seen": 0, "since": since, "sent_at": None}

    def _failed(self, name: str, row: Row, count: int, total: int) -> FailedFunction:
        with database.connection() as connection:
            first = fetch_one(
                connection,
                "first_failure",
                function=name,
                since=row["since"] if row["seen"] else None,
                latest=MOST_LATEST,
            )
        if first is None:
            return FailedFunction(name, count, total, row["since"])
        since = first["finished_at"] if count <= MOST_LATEST else row["since"]
        return FailedFunction(
            name, count, total, since, described(first["error"] or {}), first["id"]
        )

    def may_notify(self, source: str) -> bool:
        """Whether it is long enough ago that the receiver was told of this function, or of runs."""
        row = self._rows.get(source)
        return row is None or row["sent_at"] is None or self.now - row["sent_at"] >= INTERVAL

    @property
    def last_run_event(self) -> int:
        """The last event of Dagster's log that has been looked at for failed runs."""
        return int(self._rows[RUNS]["seen"]) if RUNS in self._rows else 0

    def mark_told(self, functions: list[FailedFunction], last_run_event: int | None) -> None:
        """Remember that the receiver has been told of these, and of runs up to an event."""
        seen = {_of_function(failed.name): failed.total for failed in functions}
        if last_run_event is not None:
            seen[RUNS] = last_run_event
        self._mark(seen, sent=True)

    def mark_looked(self) -> None:
        """Remember that failures were looked for; written once a minute."""
        if self.now - self._rows[_LOOKED]["since"] >= INTERVAL:
            self._mark({_LOOKED: 0}, sent=False)

    def pass_over_runs(self, last_run_event: int) -> None:
        """Remember that the receiver has to be told of no run up to an event."""
        if last_run_event != self.last_run_event:
            self._mark({RUNS: last_run_event}, sent=False)

    def _mark(self, seen: Mapping[str, int], *, sent: bool, since: datetime | None = None) -> None:
        parameters: dict[str, Any] = {
            "target": self._target,
            "sources": list(seen),
            "seen": list(seen.values()),
            "since": since or self.now,
            "sent": sent,
        }
        with database.connection() as connection:
            fetch_all(connection, "mark_alerts", **parameters)


def _of_function(name: str) -> str:
    return f"function {name}"


def _counts() -> dict[str, int]:
    with database.connection() as connection:
        return {row["name"]: row["count"] for row in fetch_all(connection, "failure_counts")}
