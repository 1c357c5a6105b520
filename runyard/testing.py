"""Run functions in a test: in this process, against a real event table, with the time in the test's hands.

::

    def test_a_reminder_goes_out_after_three_days(yard):
        sent = yard.send("account/opened", {"user": 7})
        yard.work()
        assert sent.invocation.status == "sleeping"
        yard.advance("3d")
        assert sent.invocation.status == "succeeded"
        assert yard.sent("email/send.requested")[0].data["to"] == "ada@example.com"

The pytest plugin that comes with Runyard gives the fixture `yard`. Nothing of the engine is replaced: jobs run in Dagster, results are kept
in PostgreSQL. Only what waits for processes and for time is done here, at once.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from dagster import DagsterInstance, Definitions

from runyard import clock
from runyard.client import send as send_events
from runyard.dagster_adapter import batches, reaper
from runyard.dagster_adapter.internals import silence_console
from runyard.dagster_adapter.sensors import check_io_managers
from runyard.dagster_adapter.tags import BATCH
from runyard.engine import dispatch
from runyard.engine.items import Item, stubs
from runyard.events import Event, rows_as_json
from runyard.functions import registry
from runyard.functions.registry import Function
from runyard.store import database
from runyard.store.queries import Row, fetch_all, fetch_one
from runyard.syntax.durations import Duration, seconds

_MOST_RUNS = 10_000
_TABLES = (
    "events",
    "functions",
    "triggers",
    "invocations",
    "steps",
    "batches",
    "waits",
    "parts",
    "gates",
    "bulks",
    "progress",
)


@dataclass(frozen=True)
class Step:
    """What a step has given so far: its output or its last error, and how often it was tried."""

    output: Any
    error: Mapping[str, Any] | None
    tries: int


class Invocation:
    """An event for a function, as it stands whenever it is looked at."""

    def __init__(self, invocation_id: int) -> None:
        self.id = invocation_id

    def _row(self) -> Row:
        with database.connection() as connection:
            row = fetch_one(connection, "invocations_of_event", event=None, invocation=self.id)
        assert row is not None, f"there is no invocation {self.id}"
        return row

    @property
    def status(self) -> str:
        """queued, claimed, running, sleeping, waiting, succeeded, failed, cancelled or skipped."""
        return str(self._row()["status"])

    @property
    def function(self) -> str:
        """The function's name."""
        return str(self._row()["function"])

    @property
    def attempt(self) -> int:
        """Attempts begun of the step that it is at."""
        return int(self._row()["attempt"])

    @property
    def output(self) -> Any:
        """The result of its last step, once it has succeeded."""
        return self._row()["output"]

    @property
    def error(self) -> Mapping[str, Any] | None:
        """Its last error: step, type, message, traceback."""
        found: Mapping[str, Any] | None = self._row()["error"]
        return found

    @property
    def due(self) -> datetime:
        """When it is due, or was."""
        found: datetime = self._row()["due_at"]
        return found

    @property
    def steps(self) -> dict[str, Step]:
        """The steps it has come to, by name."""
        return {name: Step(**step) for name, step in self._row()["steps"].items()}

    @property
    def progress(self) -> list[tuple[float, str]]:
        """What its steps have said of how far they are: per cent and text, oldest first."""
        with database.connection() as connection:
            return [
                (row["percent"], row["text"])
                for row in fetch_all(connection, "progress_of", invocation=self.id)
            ]

    @property
    def replay_of(self) -> int | None:
        """The invocation that this one does again."""
        found: int | None = self._row()["replay_of"]
        return found

    def __repr__(self) -> str:
        row = self._row()
        return f"Invocation({self.id}, {row['function']}, {row['status']}, steps {', '.join(row['steps']) or 'none'}, error {row['error']})"


@dataclass(frozen=True)
class Sent:
    """An event that was sent."""

    id: str

    @property
    def invocations(self) -> list[Invocation]:
        """What it has set off, oldest first."""
        with database.connection() as connection:
            return [
                Invocation(row["id"])
                for row in fetch_all(
                    connection, "invocations_of_event", event=self.id, invocation=None
                )
            ]

    @property
    def invocation(self) -> Invocation:
        """The only thing that it has set off; raises AssertionError when there are none or several."""
        found = self.invocations
        assert len(found) == 1, f"the event has {len(found)} invocations, not one: {found}"
        return found[0]


def empty_event_table() -> None:
    """Delete every event and all that came of it. For a database that is there for tests alone."""
    with database.connection() as connection:
        connection.execute(
            f"TRUNCATE {', '.join(f'runyard.{table}' for table in _TABLES)} RESTART IDENTITY".encode()
        )


class Yard:
    """The functions of some Definitions, run by hand. Use it as a context; the time is the test's until it ends.

    Parameters
    ----------
    definitions
        The Dagster definitions with the jobs, their resources and their IO manager.
    at
        The time at the beginning; the real one by default.
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
        database.close_pool()  # the time of a test needs sessions of its own
        clock.take(self._at)
        registry.publish()
        return self

    def __exit__(self, *_: object) -> None:
        clock.take(None)
        database.close_pool()  # its connections have the time of the test
        self._stack.close()

    @property
    def now(self) -> datetime:
        """The time."""
        return clock.now()

    def send(self, name: str, data: Mapping[str, Any] | None = None, **more: Any) -> Sent:
        """Send an event (see `runyard.send`); nothing is run yet."""
        return Sent(send_events(name, data if data is not None else {}, **more)[0])

    def send_all(self, events: Sequence[Event]) -> list[Sent]:
        """Send several events at once."""
        return [Sent(found) for found in send_events(events)]

    def run(
        self, function: str, data: Mapping[str, Any] | None = None, *, event: str | None = None
    ) -> Invocation:
        """Send one function an event that is for it alone, run all that is due, and return its invocation."""
        found = registry.find(function)
        assert found is not None, (
            f"there is no function {function}; there are {', '.join(one.name for one in registry.functions())}"
        )
        with database.connection() as connection:
            [sent] = fetch_all(
                connection,
                "send",
                events=rows_as_json([Event(event or found.event, data or {})], target=function),
                source="test",
            )
        self.work()
        return Sent(sent["id"]).invocation

    def work(self) -> int:
        """Run everything that is due now, and what that sets off, until nothing is due; return how many runs it took."""
        before = len(self.runs)
        while self._round():
            assert len(self.runs) - before < _MOST_RUNS, (
                f"{_MOST_RUNS} runs and no end: does a function set itself off?"
            )
        return len(self.runs) - before

    def advance(self, duration: Duration) -> int:
        """Let time pass, running what becomes due on the way at the moment when it does; return how many runs it took."""
        until = clock.now() + timedelta(seconds=seconds(duration, "advance"))
        runs = self.work()
        while (wait := self.seconds_to_next()) is not None and clock.now() + timedelta(
            seconds=wait
        ) <= until:
            # A microsecond is the finest that the database tells apart.
            clock.take(min(until, clock.now() + timedelta(seconds=max(wait, 0.000_001))))
            runs += self.work()
        clock.take(until)
        return runs + self.work()

    def seconds_to_next(self) -> float | None:
        """Seconds until something that is not due yet becomes so by itself, None when only an event can set something off."""
        waits = [dispatch.seconds_until_due(function) for function in self._open_functions()]
        with database.connection() as connection:
            row = fetch_one(connection, "next_expiry")
        waits.append(row["seconds"] if row else None)
        return min((wait for wait in waits if wait is not None and wait > 0), default=None)

    def stub(self, step: str, *results: object) -> None:
        """Have a step, whatever its kind, give these results instead of being done, one after the other; the last one stands for all later ones.

        A result is a value, a function of the item, or an exception to be raised.
        """
        left = list(results) or [None]

        def give(item: Item) -> object:
            result = left.pop(0) if len(left) > 1 else left[0]
            if isinstance(result, BaseException):
                raise result
            return result(item) if callable(result) else result

        self._stubs[step] = give

    def sent(self, name: str) -> list[Event]:
        """The events of a name, oldest first, whoever sent them."""
        with database.connection() as connection:
            return [
                Event(row["name"], row["data"], id=row["id"])
                for row in fetch_all(connection, "events_named", name=name)
            ]

    def invocations(self, function: str) -> list[Invocation]:
        """All invocations of a function, oldest first."""
        with database.connection() as connection:
            return [
                Invocation(row["id"])
                for row in fetch_all(connection, "invocations_of_function", function=function)
            ]

    def claim(self, function: str) -> list[str]:
        """Claim what is due of a function and leave it at that, as a worker does that is lost before it begins; return the batch ids."""
        found = registry.find(function)
        assert found is not None
        return [claim.batch_id for claim in dispatch.claim(found) or []]

    def execute(self, function: str, batch_id: str) -> str:
        """Run a function on a batch that was claimed; return the run's id."""
        found = registry.find(function)
        assert found is not None and self._instance is not None
        token = stubs.set(self._stubs)
        try:
            result = self._definitions.get_job_def(found.job).execute_in_process(
                instance=self._instance, tags={BATCH: batch_id}, raise_on_error=False
            )
        finally:
            stubs.reset(token)
        batches.close_batch(result.run_id)
        reaper.settle_orphaned(self._instance, result.run_id)
        self.runs.append(result.run_id)
        return result.run_id

    def metadata(self, run_id: str, op_name: str) -> dict[str, Any]:
        """What an op of a run shows in the Dagster UI beside its output."""
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
        done = dispatch.expire() + dispatch.match_waits()
        for function in self._open_functions():
            for batch_id in self.claim(function.name):
                self.execute(function.name, batch_id)
                done += 1
        return done

    def _open_functions(self) -> list[Function]:
        with database.connection() as connection:
            names = [row["function"] for row in fetch_all(connection, "open_functions")]
        return [found for name in names if (found := registry.find(name)) is not None]
