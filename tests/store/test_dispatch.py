"""Claim, begin, keep, settle, release: what a lease promises."""

import threading
import time
from dataclasses import replace

import psycopg
import pytest

from runyard import Event, dispatch, registry, send
from runyard.dispatch import Outcome
from runyard.errors import LeaseLost
from runyard.flow import Flow, Timeouts
from runyard.registry import Function
from runyard.store import database
from runyard.store.queries import Row, run


def rows(statement: str, *parameters: object) -> list[Row]:
    with database.connection() as connection:
        return list(connection.execute(statement.encode(), parameters).fetchall())


def worker(slots: int) -> None:
    with database.connection() as connection:
        run(connection, "heartbeat_worker", name="w", host="h", pid=1, slots=slots)


def claim_ids(function: Function) -> list[str]:
    return [claim.batch_id for claim in dispatch.claim(function) or []]


def silence(batch: str) -> None:
    """Let the last heartbeat of a batch be long ago."""
    rows("UPDATE runyard.batches SET heartbeat_at = now() - interval '1 hour' WHERE id = %s RETURNING id", batch)


def kept(invocation: int, output: str | None = "1", error: str | None = None) -> tuple[int, int, str | None, str | None, float, float]:
    return (invocation, 1, output, error, 1.0, 2.0)


def test_due_invocations_come_in_batches_by_priority_then_age(function: Function) -> None:
    ids = send([Event("greet/requested", {"n": n}) for n in range(15)])
    rows("UPDATE runyard.invocations SET priority = 5 WHERE event_id = %s RETURNING id", ids[14])
    rows("UPDATE runyard.invocations SET due_at = now() + interval '1 hour', priority = 9 WHERE event_id = %s RETURNING id", ids[3])
    claims = dispatch.claim(function)
    assert claims is not None and [claim.size for claim in claims] == [10, 4]
    begun = dispatch.begin(claims[0].batch_id, "run-1")
    assert begun is not None
    assert [row["event_id"] for row in begun[1]] == [ids[14], *[ids[n] for n in (0, 1, 2, 4, 5, 6, 7, 8, 9)]]
    assert dispatch.claim(function) == []
    assert dispatch.seconds_until_due(function) == pytest.approx(3600, abs=5)


def test_no_more_batches_wait_than_the_workers_can_soon_take(function: Function) -> None:
    worker(slots=3)
    send([Event("greet/requested") for _ in range(100)])
    assert len(claim_ids(function)) == 6
    assert dispatch.claim(function) is None


def test_sensors_at_once_never_claim_an_invocation_twice(function: Function) -> None:
    worker(slots=200)
    send([Event("greet/requested") for _ in range(400)])
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.extend(claim_ids(function))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found.extend(claim_ids(function))
    claimed = [row["invocation"] for row in rows("SELECT unnest(invocations) AS invocation FROM runyard.batches")]
    assert sorted(claimed) == list(range(1, 401))


def test_a_batch_belongs_to_one_run(function: Function) -> None:
    send("greet/requested")
    [batch] = claim_ids(function)
    assert dispatch.begin(batch, "run-1") is not None
    assert dispatch.begin(batch, "run-2") is None
    again = dispatch.begin(batch, "run-1", fresh=False)
    assert again is not None and again[1][0]["attempt"] == 1


def test_a_late_worker_keeps_and_settles_nothing(function: Function) -> None:
    send("greet/requested")
    [batch] = claim_ids(function)
    dispatch.begin(batch, "run-1")
    silence(batch)
    assert [row["id"] for row in dispatch.overdue()] == [batch]
    assert dispatch.release(batch, "running", "queued", attempts=3, crashed=True) == 1
    with pytest.raises(LeaseLost):
        dispatch.keep(batch, "run-1", "a", [kept(1)])
    with pytest.raises(LeaseLost):
        dispatch.settle(batch, "run-1", [Outcome(1, "succeeded")])
    assert rows("SELECT FROM runyard.steps") == []
    assert rows("SELECT status, crashes FROM runyard.invocations") == [{"status": "queued", "crashes": 1}]


def test_a_worker_that_came_back_in_time_keeps_its_lease(function: Function) -> None:
    send("greet/requested")
    [batch] = claim_ids(function)
    dispatch.begin(batch, "run-1")
    assert dispatch.overdue() == []
    assert dispatch.release(batch, "running", "queued", attempts=3) is None


def test_kept_outputs_are_never_replaced_and_errors_are(function: Function) -> None:
    send("greet/requested")
    [batch] = claim_ids(function)
    dispatch.begin(batch, "run-1")
    dispatch.keep(batch, "run-1", "a", [kept(1, None, '{"type": "E", "message": "m"}')])
    dispatch.keep(batch, "run-1", "a", [kept(1, "2")])
    dispatch.keep(batch, "run-1", "a", [kept(1, "3")])
    assert rows("SELECT output, error FROM runyard.steps") == [{"output": 2, "error": None}]


def test_a_lost_batch_goes_on_with_its_kept_steps(function: Function) -> None:
    send([Event("greet/requested"), Event("greet/requested")])
    [batch] = claim_ids(function)
    dispatch.begin(batch, "run-1")
    dispatch.keep(batch, "run-1", "a", [kept(2)])
    silence(batch)
    dispatch.release(batch, "running", "queued", attempts=3, crashed=True)
    [second] = claim_ids(function)
    begun = dispatch.begin(second, "run-2")
    assert begun is not None
    assert [row["attempt"] for row in begun[1]] == [2, 2] and [step["invocation_id"] for step in begun[2]] == [2]


def test_an_invocation_that_lost_two_workers_runs_alone(function: Function) -> None:
    send([Event("greet/requested", {"n": n}) for n in range(4)])
    rows("UPDATE runyard.invocations SET crashes = 2 WHERE id IN (2, 3) RETURNING id")
    assert [sorted(row["invocations"]) for row in _claimed(function)] == [[1, 4], [2], [3]]


def _claimed(function: Function) -> list[Row]:
    # A claim that is smaller than the largest batch ends a call: what was left out comes at the next.
    worker(slots=10)
    while dispatch.claim(function):
        pass
    return rows("SELECT invocations FROM runyard.batches ORDER BY id")


def test_a_crash_in_the_last_attempt_is_final(function: Function) -> None:
    send("greet/requested")
    rows("UPDATE runyard.invocations SET attempt = 2 RETURNING id")
    [batch] = claim_ids(function)
    dispatch.begin(batch, "run-1")
    silence(batch)
    dispatch.release(batch, "running", "queued", attempts=3, crashed=True, error='{"type": "WorkerLost"}')
    [row] = rows("SELECT status, error->>'type' AS type, finished_at IS NOT NULL AS finished FROM runyard.invocations")
    assert row == {"status": "failed", "type": "WorkerLost", "finished": True}


def test_a_batch_that_waits_while_all_slots_are_busy_is_left_alone(function: Function) -> None:
    worker(slots=1)
    send([Event("greet/requested") for _ in range(20)])
    busy, waiting = claim_ids(function)
    dispatch.begin(busy, "run-1")
    silence(waiting)
    assert dispatch.overdue() == []
    dispatch.settle(busy, "run-1", [])
    assert [row["id"] for row in dispatch.overdue()] == [waiting]


def test_without_any_worker_a_claim_that_never_began_is_taken_back(function: Function) -> None:
    send("greet/requested")
    [batch] = claim_ids(function)
    silence(batch)
    assert [row["id"] for row in dispatch.overdue()] == [batch]
    assert dispatch.release(batch, "claimed", "queued", attempts=3) == 1
    assert rows("SELECT status, attempt, crashes FROM runyard.invocations") == [{"status": "queued", "attempt": 0, "crashes": 0}]


def test_a_run_that_failed_before_it_began_was_an_attempt(function: Function) -> None:
    send("greet/requested")
    for attempt, status in ((1, "queued"), (2, "queued"), (3, "failed")):
        [batch] = claim_ids(function)
        assert dispatch.release(batch, "claimed", "queued", attempts=3, counted=True, force=True) == 1
        assert rows("SELECT status, attempt FROM runyard.invocations") == [{"status": status, "attempt": attempt}]


def test_a_replay_makes_new_invocations_of_the_same_events(function: Function) -> None:
    [event_id] = send("greet/requested")
    [batch] = claim_ids(function)
    dispatch.begin(batch, "run-1")
    dispatch.settle(batch, "run-1", [Outcome(1, "succeeded", output="5")])
    again = dispatch.begin(dispatch.claim_replay(function, batch) or "", "run-2")
    assert again is not None and [(row["event_id"], row["attempt"]) for row in again[1]] == [(event_id, 1)]
    assert rows("SELECT replay_of FROM runyard.invocations ORDER BY id") == [{"replay_of": None}, {"replay_of": 1}]


def test_what_succeeded_is_not_taken_up_again(function: Function) -> None:
    send([Event("greet/requested"), Event("greet/requested")])
    [batch] = claim_ids(function)
    dispatch.begin(batch, "run-1")
    dispatch.settle(batch, "run-1", [Outcome(1, "succeeded"), Outcome(2, "failed", error="{}")])
    resumed = dispatch.begin(dispatch.claim_unfinished(function, batch) or "", "run-2", fresh=False)
    assert resumed is not None and [row["id"] for row in resumed[1]] == [2]
    assert dispatch.begin(dispatch.claim_unfinished(function, batch) or "", "run-3", fresh=False) is None


def test_a_cancel_reaches_the_heartbeat(function: Function) -> None:
    send("greet/requested")
    [batch] = claim_ids(function)
    dispatch.begin(batch, "run-1")
    assert dispatch.request_cancel(None, "run-1") == {"id": batch, "function": "greet", "status": "running", "cancelled": True}
    with database.connection() as connection:
        assert run(connection, "heartbeat", batches=[batch]) == [{"id": batch, "stopped": True, "cancelled": []}]


@pytest.mark.parametrize("shape", [[["data", "n"]], []])
def test_many_waits_and_many_events_since_the_run_began_are_matched_by_equality(function: Function, shape: list[list[str]]) -> None:
    made = replace(function, max_batch=500)
    send([Event("greet/requested", {"n": n}) for n in range(200)])
    [claim] = dispatch.claim(made) or []
    begun = dispatch.begin(claim.batch_id, "run-1")
    assert begun is not None
    sent = [one for _ in range(2) for one in send([Event("answer/given", {"n": n}) for n in range(1000)])]
    asked = [
        {"invocation": row["id"], "kind": "event", "event": "answer/given", "seconds": 60, "shape": shape, "wanted": [row["data"]["n"]] if shape else []}
        for row in begun[1]
    ]
    began = time.monotonic()
    waits = dispatch.register_waits(claim.batch_id, "run-1", "answer", asked)
    assert time.monotonic() - began < 5  # each wait with each event took half a minute
    numbers = {row["id"]: row["data"]["n"] for row in begun[1]}
    assert {row["invocation_id"]: row["result"]["id"] for row in waits} == {invocation: sent[n if shape else 0] for invocation, n in numbers.items()}


def test_the_server_compiles_no_function_of_the_engine(function: Function) -> None:
    found = rows(
        "SELECT proname FROM pg_proc JOIN pg_language ON pg_language.oid = prolang WHERE pronamespace = 'runyard'::regnamespace AND lanname = 'plpgsql'"
        " AND prosrc ~ 'runyard[.](invocations|waits|events)' AND NOT coalesce(proconfig @> '{jit=off}', false)"
    )
    assert found == []


def test_the_time_to_begin_counts_from_the_commit_of_the_event(
    function: Function, other_connection: psycopg.Connection[tuple[object, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_functions", {"greet": replace(function, flow=Flow(timeouts=Timeouts(start=2)))})
    registry.publish()
    other_connection.execute("SELECT runyard.send('greet/requested')")
    other_connection.execute("SELECT pg_sleep_until(now() + interval '2.5 seconds')")  # its transaction lasts longer than the time to begin
    other_connection.commit()
    assert dispatch.expire() == 0
