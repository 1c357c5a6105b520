"""How invocations end: callbacks, internal events, dead letters, replays and cancellations."""

import pytest

from runyard import Event
from runyard.store import database
from runyard.testing import Yard
from tests.tables import rows


def test_on_failure_gets_the_event_the_error_and_the_attempts(yard: Yard) -> None:
    yard.stub(
        "work", RuntimeError("no way"), RuntimeError("no way"), RuntimeError("no way"), "mourned"
    )
    sent = yard.send("watched/go", {"n": 5})
    yard.advance("1m")
    assert sent.invocation.status == "failed"
    [event] = yard.sent("runyard/function.failed")
    assert (
        event.data["function"],
        event.data["status"],
        event.data["attempts"],
        event.data["event"]["data"],
    ) == ("watched", "failed", 3, {"n": 5})
    assert event.data["error"]["message"] == "no way"
    assert event.data["invocation"] == sent.invocation.id
    assert rows(
        "SELECT function, status, output FROM runyard.invocations WHERE event_id = %s", event.id
    ) == [{"function": "watched_on_failure", "status": "succeeded", "output": "mourned"}]


def test_on_success_gets_the_output(yard: Yard) -> None:
    sent = yard.send("watched/go", {"n": 5})
    yard.work()
    [event] = yard.sent("runyard/function.finished")
    assert event.data["status"] == "succeeded"
    assert event.data["output"] == {"n": 5, "attempt": 1}
    assert [
        row["function"]
        for row in rows("SELECT function FROM runyard.invocations WHERE event_id = %s", event.id)
    ] == ["watched_on_success"]
    assert sent.invocation.status == "succeeded"


def test_a_cancellation_sends_an_internal_event(yard: Yard) -> None:
    sent = yard.send("sleeper/go")
    yard.work()
    rows("SELECT runyard.cancel(%s)", sent.invocation.id)
    yard.work()
    [event] = yard.sent("runyard/function.cancelled")
    assert event.data["function"] == "sleeper"
    assert rows(
        "SELECT status FROM runyard.invocations WHERE event_id = %s AND function = 'listening'",
        event.id,
    ) == [{"status": "succeeded"}]


def test_a_function_that_listens_to_ends_is_not_started_by_its_own(yard: Yard) -> None:
    yard.send("stepwise/go")
    yard.advance("1h")
    assert [
        row["function"] for row in rows("SELECT function FROM runyard.invocations ORDER BY id")
    ] == ["stepwise", "looping"]


def test_ends_send_events_only_when_a_function_listens(yard: Yard) -> None:
    with database.connection() as connection:
        connection.execute("DELETE FROM runyard.triggers WHERE event LIKE 'runyard/%'")
    yard.run("plain")
    assert yard.sent("runyard/function.finished") == []


def test_a_final_failure_is_a_dead_letter_until_it_is_dismissed_or_replayed(yard: Yard) -> None:
    dismissed = yard.run("plain", {"fails": 9, "kind": "final", "n": 1})
    replayed = yard.run("plain", {"fails": 1, "kind": "final", "n": 2})
    [first, second] = rows("SELECT * FROM runyard.dead_letters ORDER BY id")
    assert (first["id"], first["data"]["n"], first["step"], first["message"], first["type"]) == (
        dismissed.id,
        1,
        "work",
        "failure 1",
        "NonRetriable",
    )
    assert "raise kind" in first["traceback"]
    assert second["id"] == replayed.id
    rows("SELECT runyard.dismiss(%s)", dismissed.id)
    rows("SELECT runyard.replay(%s)", replayed.id)
    assert rows("SELECT * FROM runyard.dead_letters") == []


@pytest.mark.parametrize("keep", [False, True])
def test_a_replay_runs_every_step_or_keeps_the_completed_ones(yard: Yard, keep: bool) -> None:
    yard.stub("after", RuntimeError("1"), RuntimeError("2"), RuntimeError("3"), "done")
    sent = yard.send("sleeper/go", {"nap": 1})
    yard.advance("1h")
    assert sent.invocation.status == "failed"
    yard.stub("work", "worked again")
    [row] = rows("SELECT runyard.replay(%s, %s) AS id", sent.invocation.id, keep)
    yard.advance("1h")
    first, again = sent.invocations
    assert (again.id, again.replay_of, again.status) == (row["id"], first.id, "succeeded")
    assert (again.steps["work"].output == "worked again") is not keep


def test_a_replay_skips_the_admission_rules(yard: Yard) -> None:
    sent = yard.send("once/go", {"order": 1})
    yard.work()
    rows("SELECT runyard.replay(%s)", sent.invocation.id)
    yard.work()
    assert [each.status for each in sent.invocations] == ["succeeded", "succeeded"]


@pytest.mark.parametrize("status", ["queued", "sleeping", "waiting"])
def test_an_invocation_in_no_run_is_cancelled_at_once(yard: Yard, status: str) -> None:
    name = {"queued": "limited/go", "sleeping": "sleeper/go", "waiting": "waiter/go"}[status]
    sent = yard.send_all([Event(name, {"n": n, "tenant": n, "order": n}) for n in range(3)])
    if status != "queued":
        yard.work()
    assert {each.invocation.status for each in sent} == {status}
    rows("SELECT runyard.cancel(id) FROM runyard.invocations")
    assert {each.invocation.status for each in sent} == {"cancelled"}
    assert yard.work() <= 3
    assert rows("SELECT count(*) AS n FROM runyard.waits") == [{"n": 0}]
    yard.advance("30d")
    assert {each.invocation.status for each in sent} == {"cancelled"}


def test_an_error_outside_every_step_counts_as_an_attempt(yard: Yard) -> None:
    sent = yard.send("plain/go")
    [batch] = yard.claim("plain")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("runyard.engine.batch.Batch.map", lambda *_: 1 / 0)
        yard.execute("plain", batch)
    assert sent.invocation.status == "queued"
    assert sent.invocation.error is not None
    assert sent.invocation.error["type"] == "ZeroDivisionError"
    yard.advance("1m")
    assert (sent.invocation.status, sent.invocation.attempt) == ("succeeded", 2)
