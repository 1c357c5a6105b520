"""Flow control under random actions, checked against a simple model in Python.

The actions are sends, claims, retries, suspensions, crashes, cancellations and jumps in time. The
model knows what was sent when, in order. No limit is ever exceeded; rate limits skip exactly what
the model skips; an awaited event is the first one that matches; and once everything has settled,
every invocation is final exactly once. What is due is said for all functions as for each.
"""

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from runyard import Event, clock, send
from runyard.engine import batch_claims, batch_leases, housekeeping, settlement, wait_registration
from runyard.engine.due import seconds_until_due
from runyard.engine.settlement import Outcome
from runyard.functions import registry
from runyard.functions.flow_control import (
    Concurrency,
    Flow,
    Priority,
    RateLimit,
    Singleton,
    Throttle,
    Timeouts,
)
from runyard.functions.registry import Function
from runyard.functions.retry import Retry
from runyard.store import database
from runyard.store.queries import Row
from tests.store.due import due_seconds
from tests.tables import empty_tables, rows

ATTEMPTS = 3
PERIOD = 60
RATE = 3
BURST, THROTTLE = 2, 4
BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
_retry = Retry(attempts=ATTEMPTS, delays=(0.0,), jitter=0)
FUNCTIONS = {
    "limited": Flow(
        concurrency=(Concurrency(3), Concurrency(1, key="data.k")), priority=Priority("data.level")
    ),
    "throttled": Flow(throttle=Throttle(THROTTLE, PERIOD, key="data.k", burst=BURST)),
    "rated": Flow(
        rate_limit=RateLimit(RATE, PERIOD, key="data.k"),
        concurrency=(Concurrency(2, scope="together"),),
    ),
    "single": Flow(
        singleton=Singleton(key="data.k"), concurrency=(Concurrency(2, scope="together"),)
    ),
    "timed": Flow(timeouts=Timeouts(start=120, finish=300)),
}
FINAL = ("succeeded", "failed", "cancelled", "skipped")


@dataclass
class Running:
    """A run that holds a batch."""

    batch: str
    run: str
    function: str
    rows: list[Row]


class Flowing(RuleBasedStateMachine):
    """The model: what was sent, which runs hold what, what was final already."""

    def __init__(self) -> None:
        super().__init__()
        self.counter = 0
        self.waits = 0
        self.running: list[Running] = []
        # For each function: time, key and event id.
        self.sent: dict[str, list[tuple[datetime, str, str]]] = {name: [] for name in FUNCTIONS}
        # Key and event id.
        self.answers: list[tuple[str, str]] = []
        # For each waiting invocation: the key, how many answers existed before its run segment,
        # and its deadline.
        self.awaited: dict[int, tuple[str, int, datetime]] = {}
        # For each invocation: how many answers existed when its event was sent or its present
        # run segment began.
        self.answers_before: dict[int, int] = {}
        self.final: dict[int, str] = {}
        self.started: dict[int, datetime] = {}
        self.functions = {
            name: Function(
                name, f"{name}_job", (f"{name}/go",), max_batch=4, retry=_retry, flow=flow
            )
            for name, flow in FUNCTIONS.items()
        }
        self._registered = ExitStack()
        self._registered.enter_context(registry.use(*self.functions.values()))
        database.close_pool()
        clock.freeze(BEGIN)
        empty_tables()
        with database.connection() as connection:
            connection.execute(
                "INSERT INTO runyard.workers (name, host, pid, slots) VALUES ('w', 'h', 1, 90)"
                " ON CONFLICT (name) DO UPDATE SET slots = 90, heartbeat_at = now()"
            )
        registry.publish()

    @rule(
        function=st.sampled_from(sorted(FUNCTIONS)),
        keys=st.lists(st.sampled_from("abc"), min_size=1, max_size=5),
        level=st.integers(-2, 2),
    )
    def send(self, function: str, keys: list[str], level: int) -> None:
        ids = send([Event(f"{function}/go", {"k": key, "level": level}) for key in keys])
        invocations = {
            row["event_id"]: row["id"]
            for row in rows(
                "SELECT id, event_id FROM runyard.invocations WHERE event_id = ANY (%s)", ids
            )
        }
        self.answers_before |= dict.fromkeys(invocations.values(), len(self.answers))
        in_order = sorted(zip(keys, ids, strict=True), key=lambda pair: invocations[pair[1]])
        self.sent[function] += [(clock.now(), key, event_id) for key, event_id in in_order]

    @rule(key=st.sampled_from("abc"))
    def answer(self, key: str) -> None:
        [event_id] = send("answer/given", {"k": key})
        self.answers.append((key, event_id))

    @rule(seconds=st.sampled_from([1, 7, 30, 61, 400]))
    def jump(self, seconds: int) -> None:
        clock.freeze(clock.now() + timedelta(seconds=seconds))

    @rule(function=st.sampled_from(sorted(FUNCTIONS)))
    def claim_and_begin(self, function: str) -> None:
        housekeeping.expire()
        housekeeping.match_waits()
        said = due_seconds().get(function)
        claims = batch_claims.claim(self.functions[function]) or []
        if claims:
            assert said is not None
            assert said <= 0
        else:
            due = seconds_until_due(self.functions[function])
            assert due_seconds().get(function) == due
        for claim in claims:
            self.counter += 1
            begun = batch_leases.begin(claim.batch_id, f"run-{self.counter}")
            assert begun is not None
            _, batch, _ = begun
            assert 0 < len(batch) <= 4
            running = {row["id"] for run in self.running for row in run.rows}
            for row in batch:
                assert row["id"] not in self.final
                assert row["id"] not in running
                self.started.setdefault(row["id"], clock.now())
                self._woken_rightly(row["id"])
                self.answers_before.setdefault(row["id"], len(self.answers))
            self.running.append(Running(claim.batch_id, f"run-{self.counter}", function, batch))

    def _woken_rightly(self, invocation: int) -> None:
        """A suspended invocation resumes with the first answer for its key, or at its timeout."""
        if invocation not in self.awaited:
            return
        key, since, until = self.awaited.pop(invocation)
        [wait] = rows(
            "SELECT result->>'id' AS event FROM runyard.waits WHERE invocation_id = %s"
            " AND kind = 'event' ORDER BY id DESC LIMIT 1",
            invocation,
        )
        expected = self._first_answer(key, since)
        if wait["event"] is None:
            assert clock.now() >= until
        else:
            assert wait["event"] == expected

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end_a_run(self, data: st.DataObject) -> None:
        run = data.draw(st.sampled_from(self.running))
        outcomes: list[Outcome] = []
        for row in run.rows:
            ending = data.draw(st.sampled_from(["succeeded", "failed", "queued", "suspend"]))
            if ending == "suspend":
                outcomes.append(self._suspend(run, row))
            elif ending == "queued" and row["attempt"] < ATTEMPTS:
                outcomes.append(Outcome(row["id"], "queued", delay=5.0, attempt=row["attempt"]))
            else:
                outcomes.append(Outcome(row["id"], "failed" if ending == "queued" else ending))
        settlement.settle(run.batch, run.run, outcomes)
        self.running.remove(run)

    @rule(
        function=st.sampled_from(sorted(FUNCTIONS)),
        key=st.sampled_from("abc"),
        answered=st.booleans(),
        late=st.booleans(),
    )
    def suspend_and_wake(self, function: str, key: str, answered: bool, late: bool) -> None:
        """A whole suspension at once: a random walk alone gets through one too seldom."""
        self.send(function, [key], 0)
        self.claim_and_begin(function)
        if late and answered:
            self.answer(key)
        for run in [run for run in self.running if run.function == function]:
            settlement.settle(run.batch, run.run, [self._suspend(run, row) for row in run.rows])
            self.running.remove(run)
        if answered and not late:
            self.answer(key)
        self.jump(61 if not answered else 7)
        self.claim_and_begin(function)

    def _suspend(self, run: Running, row: Row) -> Outcome:
        self.waits += 1
        step, key = f"wait-{self.waits}", row["data"]["k"]
        wait_row = {
            "invocation": row["id"],
            "kind": "event",
            "event": "answer/given",
            "seconds": 50,
            "match_paths": [["data", "k"]],
            "match_values": [key],
        }
        [wait] = wait_registration.register_waits(run.batch, run.run, step, [wait_row])
        expected = self._first_answer(key, self.answers_before[row["id"]])
        assert wait["done"] == (expected is not None)
        assert not wait["done"] or wait["result"]["id"] == expected
        if wait["done"]:
            return Outcome(row["id"], "succeeded")
        self.awaited[row["id"]] = (
            key,
            self.answers_before.pop(row["id"]),
            clock.now() + timedelta(seconds=50),
        )
        return Outcome(row["id"], "waiting", attempt=0, suspended=(step,))

    def _first_answer(self, key: str, since: int) -> str | None:
        return next((event for name, event in self.answers[since:] if name == key), None)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def lose_a_worker(self, data: st.DataObject) -> None:
        run = data.draw(st.sampled_from(self.running))
        batch_leases.release(
            run.batch,
            "running",
            "queued",
            attempts=ATTEMPTS,
            crashed=True,
            force=True,
            error='{"type": "WorkerLost", "message": ""}',
        )
        self.running.remove(run)

    @precondition(lambda self: any(self.sent.values()))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        count = sum(len(sent) for sent in self.sent.values())
        chosen = data.draw(st.integers(1, count))
        rows("SELECT runyard.cancel(%s)", chosen)
        self.awaited.pop(chosen, None)

    @invariant()
    def no_limit_is_exceeded(self) -> None:
        held = rows(
            "SELECT invocations.function, events.data->>'k' AS k FROM runyard.invocations"
            " JOIN runyard.events ON events.id = event_id"
            " WHERE invocations.status IN ('claimed', 'running')"
        )
        by_function = Counter(row["function"] for row in held)
        assert by_function["limited"] <= 3
        assert by_function["rated"] + by_function["single"] <= 2
        of_key = Counter(row["k"] for row in held if row["function"] == "limited")
        assert max(of_key.values(), default=0) <= 1

    @invariant()
    def a_singleton_is_single(self) -> None:
        started = rows(
            "SELECT events.data->>'k' AS k FROM runyard.invocations"
            " JOIN runyard.events ON events.id = event_id"
            " WHERE function = 'single' AND started_at IS NOT NULL"
            " AND invocations.status NOT IN ('succeeded', 'failed', 'cancelled', 'skipped')"
        )
        assert max(Counter(row["k"] for row in started).values(), default=0) <= 1

    @invariant()
    def a_throttle_is_kept_in_every_window(self) -> None:
        starts = rows(
            "SELECT events.data->>'k' AS k, array_agg(started_at ORDER BY started_at) AS at"
            " FROM runyard.invocations JOIN runyard.events ON events.id = event_id"
            " WHERE function = 'throttled' AND started_at IS NOT NULL GROUP BY 1"
        )
        for row in starts:
            for first in row["at"]:
                end = first + timedelta(seconds=PERIOD)
                assert sum(first <= at < end for at in row["at"]) <= THROTTLE + BURST - 1

    @invariant()
    def what_is_final_stays_so(self) -> None:
        statuses = {
            row["id"]: row["status"] for row in rows("SELECT id, status FROM runyard.invocations")
        }
        assert len(statuses) == sum(len(sent) for sent in self.sent.values())
        for invocation, status in self.final.items():
            assert statuses[invocation] == status
        self.final = {key: status for key, status in statuses.items() if status in FINAL}

    def teardown(self) -> None:
        """Finish all that is open and let time pass: then everything is final."""
        for run in self.running:
            settlement.settle(
                run.batch, run.run, [Outcome(row["id"], "succeeded") for row in run.rows]
            )
        for _ in range(200):
            if not rows(
                "SELECT id FROM runyard.invocations WHERE status <> ALL (%s) LIMIT 1", list(FINAL)
            ):
                break
            housekeeping.expire()
            housekeeping.match_waits()
            for function in registry.functions():
                for claim in batch_claims.claim(function) or []:
                    begun = batch_leases.begin(claim.batch_id, "last")
                    assert begun is not None
                    settlement.settle(
                        claim.batch_id,
                        "last",
                        [Outcome(row["id"], "succeeded") for row in begun[1]],
                    )
            clock.freeze(clock.now() + timedelta(seconds=20))
        open_ones = rows(
            "SELECT id, function, status FROM runyard.invocations WHERE status <> ALL (%s)",
            list(FINAL),
        )
        self._skipped_rightly()
        clock.freeze(None)
        database.close_pool()
        self._registered.close()
        assert open_ones == []

    def _skipped_rightly(self) -> None:
        statuses = {
            row["event_id"]: row
            for row in rows(
                "SELECT event_id, status, error->>'message' AS why FROM runyard.invocations"
                " WHERE function = 'rated'"
            )
        }
        taken: dict[str, list[datetime]] = {}
        for at, key, event_id in self.sent["rated"]:
            row = statuses[event_id]
            if row["status"] == "cancelled":
                # Cancelled before its admission or after it. Both are right, but only the latter
                # counts towards the limit, so the model cannot go on.
                return
            begin = at - timedelta(seconds=PERIOD)
            fits = sum(earlier > begin for earlier in taken.setdefault(key, [])) < RATE
            assert (row["status"] != "skipped") == fits, (at, key, row)
            if fits:
                taken[key].append(at)


TestFlowing = Flowing.TestCase
TestFlowing.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
