"""Runs functions in a test: in this process, on a real event table, at a time that the test sets.

::

    def test_a_reminder_goes_out_after_three_days(yard):
        sent = yard.send("account/opened", {"user": 7})
        yard.work()
        assert sent.invocation.status == "sleeping"
        yard.advance("3d")
        assert sent.invocation.status == "succeeded"
        assert yard.sent("email/send.requested")[0].data["to"] == "ada@example.com"

Runyard's pytest plugin provides the fixture `yard`. Nothing of the engine is replaced: jobs run in
Dagster, and results are saved in PostgreSQL. Only waiting for processes and for time is replaced.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from dagster import DagsterInstance, Definitions
from pydantic import BaseModel

from runyard import clock
from runyard.authoring.run import Named, name_of
from runyard.client import send as send_events
from runyard.dagster_adapter import batches, reaper
from runyard.dagster_adapter.internals import silence_console
from runyard.dagster_adapter.sensors import check_io_managers
from runyard.dagster_adapter.tags import BATCH
from runyard.engine import batch_claims, housekeeping
from runyard.engine.due import seconds_until_due
from runyard.engine.items import Data, Item, stubs
from runyard.engine.step_logs import latest_logs
from runyard.events import (
    INTERNAL_PREFIXES,
    Event,
    as_json,
    internal_row,
    new_ulid,
    rows_as_json,
)
from runyard.functions import registry
from runyard.functions.registry import Function
from runyard.store import database
from runyard.store.queries import Row, fetch_all, fetch_one
from runyard.syntax.durations import Duration, seconds

_MAX_RUNS = 10_000
# The database does not tell times apart that are closer.
_RESOLUTION = timedelta(microseconds=1)
_TABLES = (
    "events",
    "functions",
    "triggers",
    "invocations",
    "steps",
    "batches",
    "waits",
    "run_segments",
    "flow_control_state",
    "bulks",
    "progress",
    "step_logs",
    "run_output",
    "tallies",
    "counters",
    "minute_stats",
)


@dataclass(frozen=True)
class Step:
    """What a step has come to so far: its output or its last error, and its number of tries."""

    output: Any
    error: Mapping[str, Any] | None
    tries: int


class Invocation:
    """An event for a function; its attributes are read from the event table on every access."""

    def __init__(self, invocation_id: int) -> None:
        self.id = invocation_id

    def _row(self) -> Row:
        with database.connection() as connection:
            row = fetch_one(connection, "invocations_of_event", event=None, invocation=self.id)
        assert row is not None, f"there is no invocation {self.id}"
        return row

    @property
    def status(self) -> str:
        """Its status: queued, claimed, running, sleeping, waiting, grouped, or how it ended."""
        return str(self._row()["status"])

    @property
    def function(self) -> str:
        """The function's name."""
        return str(self._row()["function"])

    @property
    def attempt(self) -> int:
        """The number of attempts begun of its current step."""
        return int(self._row()["attempt"])

    @property
    def output(self) -> Any:
        """The output of its last step, once it has succeeded."""
        return self._row()["output"]

    @property
    def error(self) -> Mapping[str, Any] | None:
        """Its last error: step, type, message, traceback."""
        error: Mapping[str, Any] | None = self._row()["error"]
        return error

    @property
    def due(self) -> datetime:
        """When it is due, or was."""
        due: datetime = self._row()["due_at"]
        return due

    @property
    def steps(self) -> dict[str, Step]:
        """The steps it has reached, by name."""
        return {name: Step(**step) for name, step in self._row()["steps"].items()}

    @property
    def progress(self) -> list[tuple[float, str]]:
        """The progress that its steps have reported: per cent and text, oldest first."""
        with database.connection() as connection:
            return [
                (row["percent"], row["text"])
                for row in fetch_all(connection, "progress_of", invocation=self.id)
            ]

    @property
    def log(self) -> list[tuple[str, str, str]]:
        """What its steps have printed and logged: step, stream or level, and text of each line."""
        with database.connection() as connection:
            rows = latest_logs(connection, self.id)
        return [(row["step"], level, text) for row in rows for _, level, text in row["lines"]]

    @property
    def written(self) -> dict[str, str]:
        """What its steps have shown while they wrote it (`item.write`), by step."""
        with database.connection() as connection:
            rows = fetch_all(connection, "written_texts", invocation=self.id)
        return {row["step"]: row["text"] for row in rows}

    @property
    def replay_of(self) -> int | None:
        """The id of the invocation that this one replays."""
        original: int | None = self._row()["replay_of"]
        return original

    def __repr__(self) -> str:
        row = self._row()
        steps = ", ".join(row["steps"]) or "none"
        return (
            f"Invocation({self.id}, {row['function']}, {row['status']}, steps {steps}, "
            f"error {row['error']})"
        )


@dataclass(frozen=True)
class Sent:
    """An event that was sent."""

    id: str

    @property
    def invocations(self) -> list[Invocation]:
        """The invocations that it has started, oldest first."""
        with database.connection() as connection:
            rows = fetch_all(connection, "invocations_of_event", event=self.id, invocation=None)
        return [Invocation(row["id"]) for row in rows]

    @property
    def invocation(self) -> Invocation:
        """Its only invocation; raises AssertionError when there is none, or more than one."""
        all_of_them = self.invocations
        count = len(all_of_them)
        assert count == 1, f"the event has {count} invocations, not one: {all_of_them}"
        return all_of_them[0]


def make_item(
    data: Data, results: Mapping[str, Any] | None = None, *, event: str = "test/sent"
) -> Item[Data]:
    """Return an item for a unit test that calls a step like the Python function that it is.

    `results` are those of earlier steps, by step name.
    """
    sent = data.model_dump(mode="json") if isinstance(data, BaseModel) else data
    plain = sent if isinstance(sent, Mapping) else {}
    return Item(1, Event(event, plain, id=new_ulid()), 1, data, dict(results or {}))


def empty_event_table() -> None:
    """Delete every event and all that came of it. Only for a database that serves tests alone."""
    tables = ", ".join(f"runyard.{table}" for table in _TABLES)
    with database.connection() as connection:
        connection.execute(f"TRUNCATE {tables} RESTART IDENTITY".encode())


class Yard:
    """Runs the functions of Dagster definitions by hand. Time is frozen while its context lasts.

    Parameters
    ----------
    definitions
        The Dagster definitions with the jobs, their resources and their IO manager.
    at
        The time at the beginning; by default the real one.
    """

    def __init__(self, definitions: Definitions, at: datetime | None = None) -> None:
        self._definitions = definitions
        self._at = at or datetime.now(UTC)
        self._stubs: dict[str, Callable[[Item], object]] = {}
        self._stack = ExitStack()
        self._instance: DagsterInstance | None = None
        self.runs: list[str] = []

    def __enter__(self) -> Self:
        check_io_managers(self._definitions.get_repository_def())
        self._instance = self._stack.enter_context(DagsterInstance.ephemeral())
        silence_console()
        database.close_pool()  # open sessions have the real time
        clock.freeze(self._at)
        registry.publish()
        return self

    def __exit__(self, *_: object) -> None:
        clock.freeze(None)
        database.close_pool()  # its sessions have the frozen time
        self._stack.close()

    @property
    def now(self) -> datetime:
        """The frozen time."""
        return clock.now()

    def send(self, name: str, data: Mapping[str, Any] | None = None, **more: Any) -> Sent:
        """Send an event (see `runyard.send`) without running anything."""
        return Sent(send_events(name, data if data is not None else {}, **more)[0])

    def send_all(self, events: Sequence[Event]) -> list[Sent]:
        """Send several events at once."""
        return [Sent(event_id) for event_id in send_events(events)]

    def run(
        self,
        function: str | Named,
        data: Mapping[str, Any] | None = None,
        *,
        event: str | None = None,
    ) -> Invocation:
        """Send an event to one function alone, run all that is due, and return its invocation.

        `event` is the event's name; by default the function's first trigger, which may be its cron
        schedule.
        """
        name = name_of(function)
        trigger = event or _find(name).event
        if event is None and trigger.startswith(INTERNAL_PREFIXES):
            rows = as_json([{**internal_row(trigger, data or {}), "target": name}])
        else:
            rows = rows_as_json([Event(trigger, data or {})], target=name)
        with database.connection() as connection:
            [sent] = fetch_all(connection, "send", events=rows, source="test")
        self.work()
        return Sent(sent["id"]).invocation

    def work(self) -> int:
        """Run everything that is due now, and all that this starts; return the number of runs."""
        before = len(self.runs)
        while self._round():
            assert len(self.runs) - before < _MAX_RUNS, (
                f"{_MAX_RUNS} runs and no end: does a function start itself?"
            )
        return len(self.runs) - before

    def advance(self, duration: Duration) -> int:
        """Let time pass, and run what becomes due at its own time; return the number of runs."""
        until = clock.now() + timedelta(seconds=seconds(duration, "advance"))
        runs = self.work()
        while (due := self._next_due()) is not None and due <= until:
            clock.freeze(min(until, max(due, clock.now() + _RESOLUTION)))
            runs += self.work()
        clock.freeze(until)
        return runs + self.work()

    def _next_due(self) -> datetime | None:
        wait = self.seconds_to_next()
        return None if wait is None else clock.now() + timedelta(seconds=wait)

    def seconds_to_next(self) -> float | None:
        """Return the seconds until something becomes due; None when that takes another event."""
        waits = [seconds_until_due(function) for function in self._open_functions()]
        with database.connection() as connection:
            row = fetch_one(connection, "next_expiry")
        waits.append(row["seconds"] if row else None)
        return min((wait for wait in waits if wait is not None and wait > 0), default=None)

    def stub(self, step: str, *results: object) -> None:
        """Replace a step of any kind: it returns these results, one per call.

        The last result is repeated. A result is a value, a function of the item, or an exception to
        raise.
        """
        remaining = list(results) or [None]

        def replacement(item: Item) -> object:
            result = remaining.pop(0) if len(remaining) > 1 else remaining[0]
            if isinstance(result, BaseException):
                raise result
            return result(item) if callable(result) else result

        self._stubs[step] = replacement

    def sent(self, name: str) -> list[Event]:
        """Return all events of this name, whoever sent them, oldest first."""
        with database.connection() as connection:
            rows = fetch_all(connection, "events_named", name=name)
        return [Event(row["name"], row["data"], id=row["id"]) for row in rows]

    def invocations(self, function: str | Named) -> list[Invocation]:
        """Return all invocations of a function, oldest first."""
        name = name_of(function)
        with database.connection() as connection:
            rows = fetch_all(connection, "invocations_of_function", function=name)
        return [Invocation(row["id"]) for row in rows]

    def claim(self, function: str) -> list[str]:
        """Claim what is due of a function without running it; return the batch ids.

        A worker that is lost before it begins leaves its batches like this.
        """
        return [claim.batch_id for claim in batch_claims.claim(_find(function)) or []]

    def execute(self, function: str, batch_id: str) -> str:
        """Run a function on a claimed batch; return the run's id."""
        assert self._instance is not None
        job = self._definitions.get_job_def(_find(function).job)
        token = stubs.set(self._stubs)
        try:
            result = job.execute_in_process(
                instance=self._instance, tags={BATCH: batch_id}, raise_on_error=False
            )
        finally:
            stubs.reset(token)
        batches.close_batch(result.run_id)
        reaper.settle_orphaned(self._instance, result.run_id)
        self.runs.append(result.run_id)
        return result.run_id

    def metadata(self, run_id: str, op_name: str) -> dict[str, Any]:
        """Return the metadata of an op's output in a run, as the Dagster UI shows it."""
        assert self._instance is not None
        shown: dict[str, Any] = {}
        for record in self._instance.all_logs(run_id):
            event = record.dagster_event
            if event is not None and event.step_key == op_name and event.is_successful_output:
                shown.update(
                    {name: value.value for name, value in event.step_output_data.metadata.items()}
                )
        return shown

    def _round(self) -> int:
        done = (
            housekeeping.expire()
            + housekeeping.apply_deferred_requests()
            + housekeeping.match_waits()
        )
        registry.catch_up()
        registry.rekey()
        for function in self._open_functions():
            for batch_id in self.claim(function.name):
                self.execute(function.name, batch_id)
                done += 1
        return done

    def _open_functions(self) -> list[Function]:
        with database.connection() as connection:
            names = [row["function"] for row in fetch_all(connection, "open_functions")]
        functions = (registry.find(name) for name in names)
        return [function for function in functions if function is not None]


def _find(name: str) -> Function:
    function = registry.find(name)
    known = ", ".join(known.name for known in registry.functions())
    assert function is not None, f"there is no function {name}; there are {known}"
    return function
