"""Claim, begin, keep, settle, release: what a lease promises."""

import threading

import pytest

from runyard import Event, dispatch, send
from runyard.dispatch import Outcome
from runyard.errors import LeaseLost
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


def begun(function: Function, size: int) -> str:
    """A batch of so many invocations, from 1 on, that the run `run-1` has begun."""
    send([Event("greet/requested") for _ in range(size)])
    [batch] = claim_ids(function)
    dispatch.begin(batch, "run-1")
    return batch


UNFIT = ['"\\u0000"', '"\\ud83d"', "1e999999", "no JSON", '"a\0b"', '"\ud83d"']


@pytest.mark.parametrize("unfit", UNFIT)
def test_a_result_that_the_database_refuses_is_told_and_the_others_are_kept(function: Function, unfit: str) -> None:
    batch = begun(function, 5)
    refused = dispatch.keep(batch, "run-1", "a", [kept(n, unfit if n in (2, 5) else "1") for n in range(1, 6)])
    assert sorted(refused) == [2, 5]
    assert all(refused.values())
    assert rows("SELECT invocation_id AS id FROM runyard.steps ORDER BY 1") == [{"id": 1}, {"id": 3}, {"id": 4}]


def test_no_event_of_a_refused_result_is_sent_and_all_of_the_others_are(function: Function) -> None:
    batch = begun(function, 4)
    events = {n: f'{{"ulid": "{n}", "name": "told/one"}}' for n in range(1, 5)}
    dispatch.keep(batch, "run-1", "a", [kept(n, "no JSON" if n == 3 else "1") for n in range(1, 5)], events=events)
    assert [row["id"] for row in rows("SELECT id FROM runyard.events WHERE name = 'told/one' ORDER BY id")] == ["1", "2", "4"]


def test_an_error_that_is_kept_twice_for_the_answer_was_lost_is_one_try(function: Function) -> None:
    batch = begun(function, 1)
    for _ in range(2):
        dispatch.keep(batch, "run-1", "a", [kept(1, None, '{"type": "E", "message": "m"}')])
    assert rows("SELECT tries FROM runyard.steps") == [{"tries": 1}]


@pytest.mark.parametrize("unfit", UNFIT)
def test_an_outcome_that_the_database_refuses_is_a_failure_and_the_others_are_written(function: Function, unfit: str) -> None:
    batch = begun(function, 4)
    dispatch.settle(batch, "run-1", [Outcome(n, "succeeded", output=unfit if n == 3 else "5") for n in range(1, 5)])
    assert [row["status"] for row in rows("SELECT status FROM runyard.invocations ORDER BY id")] == ["succeeded", "succeeded", "failed", "succeeded"]
    [failed] = rows("SELECT error->>'message' AS message FROM runyard.invocations WHERE status = 'failed'")
    assert failed["message"].startswith("the database cannot keep the outcome (succeeded): ")
    assert rows("SELECT status FROM runyard.batches") == [{"status": "finished"}]


def test_what_is_too_large_for_a_statement_is_written_in_several_and_ends_once(function: Function, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = begun(function, 5)
    monkeypatch.setattr(dispatch, "_MOST_CHARACTERS", 7)
    assert dispatch.keep(batch, "run-1", "a", [kept(n, "12345") for n in range(1, 6)]) == {}
    dispatch.settle(batch, "run-1", [Outcome(n, "succeeded", output="12345") for n in range(1, 6)])
    assert rows("SELECT count(*) AS steps FROM runyard.steps") == [{"steps": 5}]
    assert rows("SELECT output, count(*) AS invocations FROM runyard.invocations WHERE status = 'succeeded' GROUP BY 1") == [{"output": 12345, "invocations": 5}]
    assert rows("SELECT status FROM runyard.batches") == [{"status": "finished"}]


def test_of_what_is_written_in_several_statements_nothing_is_written_when_the_lease_is_gone(function: Function, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = begun(function, 3)
    monkeypatch.setattr(dispatch, "_MOST_CHARACTERS", 1)
    dispatch.release(batch, "running", "queued", attempts=3, force=True)
    with pytest.raises(LeaseLost):
        dispatch.settle(batch, "run-1", [Outcome(n, "succeeded", output="12345") for n in range(1, 4)])
    assert rows("SELECT DISTINCT status FROM runyard.invocations") == [{"status": "queued"}]


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
