"""An application's open transaction never blocks the engine, whatever it has requested."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import psycopg
import pytest

from runyard import Event, send
from runyard.engine import (
    batch_claims,
    batch_leases,
    checkpoints,
    housekeeping,
    settlement,
    wait_registration,
)
from runyard.engine.due import seconds_until_due
from runyard.engine.lease import Heartbeat
from runyard.engine.settlement import Outcome
from runyard.functions import registry
from runyard.functions.flow_control import Concurrency, Flow
from runyard.functions.registry import Function
from runyard.settings import settings
from runyard.store import database
from runyard.store.queries import Row, fetch_all
from tests.conftest import Publish, wait_until
from tests.tables import rows

Other = psycopg.Connection[tuple[object, ...]]


def statuses() -> dict[int, str]:
    return {
        row["id"]: row["status"]
        for row in rows("SELECT id, status FROM runyard.invocations ORDER BY id")
    }


@pytest.fixture
def unheld(other_connection: Other) -> Iterator[Callable[[Callable[[], object]], object]]:
    """Calls the engine while the transaction of `other_connection` is open; fails if it blocks."""
    with ThreadPoolExecutor(1) as executor:

        def do(what: Callable[[], object]) -> object:
            return executor.submit(what).result(timeout=10)

        yield do
        other_connection.rollback()


def begun(function: Function, run_id: str) -> str:
    [claim] = batch_claims.claim(function) or []
    assert batch_leases.begin(claim.batch_id, run_id) is not None
    return claim.batch_id


def heartbeat(batch: str) -> list[Row]:
    with database.connection() as connection:
        return fetch_all(connection, "heartbeat", batches=[batch])


def last_heartbeat(batch: str) -> object:
    [row] = rows("SELECT heartbeat_at FROM runyard.batches WHERE id = %s", batch)
    return row["heartbeat_at"]


ASK_ALL = (
    "SELECT runyard.cancel(id) FROM runyard.invocations",
    "SELECT runyard.run_now(id) FROM runyard.invocations",
    "SELECT runyard.replay(id) FROM runyard.invocations WHERE status IN ('succeeded', 'failed')",
    "SELECT runyard.dismiss(id) FROM runyard.invocations",
    "SELECT runyard.send('greet/requested', '{}', 'an-id')",
    "SELECT runyard.send('answer/given')",
)


def asked(invocation: int, kind: str) -> dict[str, object]:
    event = {"event": "answer/given"} if kind == "event" else {}
    return {
        "invocation": invocation,
        "kind": kind,
        "seconds": 600,
        "match_paths": [],
        "match_values": [],
        **event,
    }


def suspended(function: Function, run_id: str, kind: str) -> int:
    """Send an event and have its invocation sleep or wait; return its id."""
    send("greet/requested")
    batch = begun(function, run_id)
    [row] = rows("SELECT invocations[1] AS id FROM runyard.batches WHERE id = %s", batch)
    wait_registration.register_waits(batch, run_id, "suspend", [asked(row["id"], kind)])
    settlement.settle(
        batch,
        run_id,
        [Outcome(row["id"], "waiting" if kind == "event" else "sleeping", suspended=("suspend",))],
    )
    return int(row["id"])


@pytest.mark.parametrize(
    "flow", [Flow(), Flow(concurrency=(Concurrency(500, key="data.k"),))], ids=["plain", "lanes"]
)
@pytest.mark.parametrize("ask", [*ASK_ALL, None])
def test_requests_in_an_open_transaction_block_nothing(
    function: Function,
    other_connection: Other,
    unheld: Callable[[Callable[[], object]], object],
    ask: str | None,
    flow: Flow,
    publish_functions: Publish,
) -> None:
    function = replace(function, flow=flow)
    publish_functions(function)
    suspended(function, "run-1", "event")
    suspended(function, "run-2", "sleep")
    send("greet/requested")
    settlement.settle(begun(function, "run-3"), "run-3", [Outcome(3, "failed", error="{}")])
    send([Event("greet/requested") for _ in range(4)])
    batch = begun(function, "run-4")
    send([Event("greet/requested"), Event("greet/requested", ts=4_000_000_000_000)])
    waiting = batch_claims.claim(function) or []
    for statement in [ask] if ask is not None else ASK_ALL:
        other_connection.execute(statement.encode())

    before = last_heartbeat(batch)
    unheld(lambda: heartbeat(batch))
    assert last_heartbeat(batch) != before
    unheld(lambda: checkpoints.save_steps(batch, "run-4", "a", [(4, 1, "1", None, 1.0, 2.0)]))
    unheld(lambda: wait_registration.register_waits(batch, "run-4", "answer", [asked(5, "event")]))
    unheld(
        lambda: settlement.settle(
            batch,
            "run-4",
            [
                Outcome(4, "succeeded"),
                Outcome(5, "waiting", suspended=("answer",)),
                Outcome(6, "queued"),
                Outcome(7, "failed"),
            ],
        )
    )
    unheld(lambda: batch_leases.begin(waiting[0].batch_id, "run-5"))
    send("greet/requested")
    unheld(lambda: batch_claims.claim(function))
    unheld(
        lambda: batch_leases.release(
            waiting[0].batch_id, "running", "queued", attempts=3, crashed=True, force=True
        )
    )
    send("answer/given")
    unheld(housekeeping.match_waits)
    unheld(housekeeping.expire)
    unheld(housekeeping.apply_deferred_requests)
    unheld(registry.catch_up)
    unheld(registry.rekey)
    unheld(batch_leases.overdue)


def test_what_a_transaction_asks_is_done_when_it_commits_and_not_when_it_does_not(
    function: Function, other_connection: Other
) -> None:
    waiting, sleeping = suspended(function, "run-1", "event"), suspended(function, "run-2", "sleep")
    send([Event("greet/requested") for _ in range(2)])
    batch = begun(function, "run-3")
    ask = "SELECT runyard.cancel(id) FROM runyard.invocations WHERE id = ANY (%s)"
    for end in (other_connection.rollback, other_connection.commit):
        assert statuses() == {waiting: "waiting", sleeping: "sleeping", 3: "running", 4: "running"}
        assert other_connection.execute(ask.encode(), ([waiting, 3],)).fetchall() == [
            (True,),
            (True,),
        ]
        assert other_connection.execute("SELECT runyard.run_now(%s)", (sleeping,)).fetchone() == (
            True,
        )
        end()
    assert statuses() == {waiting: "cancelled", sleeping: "sleeping", 3: "running", 4: "running"}
    assert seconds_until_due(function) == pytest.approx(0, abs=5)
    [row] = heartbeat(batch)
    assert (row["stopped"], row["cancelled"]) == (False, [3])
    assert rows("SELECT FROM runyard.requests") == []


def test_one_statement_cancels_many_invocations(
    function: Function, other_connection: Other
) -> None:
    send([Event("greet/requested") for _ in range(3000)])
    found = other_connection.execute(
        "SELECT count(*) FILTER (WHERE runyard.cancel(id, 'no more')) FROM runyard.invocations"
    ).fetchone()
    other_connection.commit()
    assert found == (3000,)
    assert rows(
        "SELECT status, error->>'message' AS why, count(*) AS n FROM runyard.invocations"
        " GROUP BY 1, 2"
    ) == [{"status": "cancelled", "why": "no more", "n": 3000}]


def test_a_cancel_that_stays_open_for_longer_than_a_lease_costs_none(
    function: Function, other_connection: Other, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNYARD_LEASE_SECONDS", "2")
    settings.cache_clear()
    try:
        send([Event("greet/requested") for _ in range(2)])
        batch = begun(function, "run-1")
        lease = (heartbeat := Heartbeat()).start(batch, "run-1")
        other_connection.execute("SELECT runyard.cancel(1)")
        since = (
            "SELECT clock_timestamp() - started_at > interval '4 seconds' AS long"
            " FROM runyard.batches WHERE id = %s"
        )
        wait_until(lambda: rows(since, batch)[0]["long"])
        assert batch_leases.overdue() == []
        assert (lease.lost.is_set(), lease.cancelled) == (False, set())
        other_connection.commit()
        wait_until(lambda: lease.cancelled == {1})
        heartbeat.stop(batch)
    finally:
        monkeypatch.undo()
        settings.cache_clear()


def test_a_locked_batch_does_not_block_the_heartbeats_of_others(
    function: Function, other_connection: Other, unheld: Callable[[Callable[[], object]], object]
) -> None:
    with database.connection() as connection:
        fetch_all(
            connection,
            "heartbeat_worker",
            name="w",
            host="h",
            pid=1,
            slots=4,
            pid_namespace="p",
            remote=False,
        )
    send("greet/requested")
    locked = begun(function, "run-1")
    send("greet/requested")
    free = begun(function, "run-2")
    before = last_heartbeat(free)
    other_connection.execute("SELECT FROM runyard.batches WHERE id = %s FOR UPDATE", (locked,))
    with database.connection() as connection:
        found = unheld(lambda: fetch_all(connection, "heartbeat", batches=[locked, free]))
    assert isinstance(found, list)
    assert {row["id"] for row in found} == {locked, free}
    assert last_heartbeat(free) != before


def test_a_lease_begins_when_it_is_written_not_when_the_wait_for_a_lock_began(
    function: Function, other_connection: Other
) -> None:
    send("greet/requested")
    [claim] = batch_claims.claim(function) or []
    other_connection.execute(
        "SELECT FROM runyard.batches WHERE id = %s FOR UPDATE", (claim.batch_id,)
    )
    beginning = threading.Thread(target=lambda: batch_leases.begin(claim.batch_id, "run-1"))
    beginning.start()
    wait_until(
        lambda: rows(
            "SELECT FROM pg_stat_activity WHERE datname = current_database()"
            " AND wait_event_type = 'Lock'"
        )
    )
    [row] = rows("SELECT clock_timestamp() AS now")
    other_connection.commit()
    beginning.join()
    assert last_heartbeat(claim.batch_id) > row["now"]  # type: ignore[operator]


def test_outputs_are_in_the_order_of_saving_whatever_the_workers_clocks_say(
    function: Function,
) -> None:
    send("greet/requested")
    batch = begun(function, "run-1")
    checkpoints.save_steps(batch, "run-1", "first", [(1, 1, "1", None, 2000.0, 2001.0)])
    checkpoints.save_steps(batch, "run-1", "second", [(1, 1, None, "{}", 900.0, 901.0)])
    checkpoints.save_steps(batch, "run-1", "third", [(1, 1, "3", None, 1000.0, 1001.0)])
    checkpoints.save_steps(batch, "run-1", "second", [(1, 1, "2", None, 800.0, 801.0)])
    batch_leases.release(batch, "running", "queued", attempts=3, force=True)
    [claim] = batch_claims.claim(function) or []
    again = batch_leases.begin(claim.batch_id, "run-2")
    assert again is not None
    assert [step["step"] for step in again[2]] == ["first", "third", "second"]
    settlement.settle(claim.batch_id, "run-2", [Outcome(1, "failed", error="{}")])
    rows("SELECT runyard.replay(1, keep => true)")
    assert [
        row["step"]
        for row in rows("SELECT step FROM runyard.steps WHERE invocation_id = 2 ORDER BY number")
    ] == ["first", "third", "second"]


@pytest.mark.parametrize(
    "level", [psycopg.IsolationLevel.REPEATABLE_READ, psycopg.IsolationLevel.SERIALIZABLE]
)
def test_a_transaction_with_a_snapshot_of_its_own_commits_although_what_it_cancels_has_gone_on(
    function: Function, other_connection: Other, level: psycopg.IsolationLevel
) -> None:
    other_connection.isolation_level = level
    send([Event("greet/requested") for _ in range(3)])
    batch = begun(function, "run-1")
    assert other_connection.execute(
        "SELECT bool_and(runyard.cancel(id, 'no more')) FROM runyard.invocations WHERE id < 3"
    ).fetchone() == (True,)
    heartbeat(batch)
    other_connection.commit()
    housekeeping.apply_deferred_requests()
    [row] = heartbeat(batch)
    assert sorted(row["cancelled"]) == [1, 2]
    assert rows("SELECT FROM runyard.requests") == []


def test_a_commit_does_not_fail_because_what_it_cancels_is_locked(
    function: Function, other_connection: Other, store_url: str
) -> None:
    send("greet/requested")
    begun(function, "run-1")
    other_connection.execute("SET LOCAL lock_timeout = '50ms'")
    other_connection.execute("SELECT runyard.cancel(1)")
    with psycopg.connect(store_url) as locking:
        locking.execute("SELECT FROM runyard.batches FOR UPDATE")
        other_connection.commit()
    housekeeping.apply_deferred_requests()
    assert rows("SELECT cancel_requested_at IS NOT NULL AS asked FROM runyard.invocations") == [
        {"asked": True}
    ]
