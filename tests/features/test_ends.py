"""How things end: callbacks, internal events, dead letters; and how they are done again or called off, one or many."""

from typing import Any

import pytest

from runyard import Event
from runyard.store import database
from runyard.testing import Yard


def rows(statement: str, *parameters: object) -> list[dict[str, Any]]:
    with database.connection() as connection:
        return list(connection.execute(statement.encode(), parameters).fetchall())


def test_on_failure_gets_the_event_the_error_and_the_attempts(yard: Yard) -> None:
    yard.stub(
        "work", RuntimeError("no way"), RuntimeError("no way"), RuntimeError("no way"), "mourned"
    )
    sent = yard.send("watched/go", {"n": 5})
    yard.advance("1m")
    assert sent.invocation.status == "failed"
    [told] = yard.sent("runyard/function.failed")
    assert (
        told.data["function"],
        told.data["status"],
        told.data["attempts"],
        told.data["event"]["data"],
    ) == ("watched", "failed", 3, {"n": 5})
    assert (
        told.data["error"]["message"] == "no way" and told.data["invocation"] == sent.invocation.id
    )
    assert rows(
        "SELECT function, status, output FROM runyard.invocations WHERE event_id = %s", told.id
    ) == [{"function": "watched_on_failure", "status": "succeeded", "output": "mourned"}]


def test_on_success_gets_the_output(yard: Yard) -> None:
    sent = yard.send("watched/go", {"n": 5})
    yard.work()
    [told] = yard.sent("runyard/function.finished")
    assert told.data["status"] == "succeeded" and told.data["output"] == {"n": 5, "attempt": 1}
    assert [
        row["function"]
        for row in rows("SELECT function FROM runyard.invocations WHERE event_id = %s", told.id)
    ] == ["watched_on_success"]
    assert sent.invocation.status == "succeeded"


def test_a_cancelled_invocation_is_told_of(yard: Yard) -> None:
    sent = yard.send("sleeper/go")
    yard.work()
    rows("SELECT runyard.cancel(%s)", sent.invocation.id)
    yard.work()
    [told] = yard.sent("runyard/function.cancelled")
    assert told.data["function"] == "sleeper" and rows(
        "SELECT status FROM runyard.invocations WHERE event_id = %s AND function = 'listening'",
        told.id,
    ) == [{"status": "succeeded"}]


def test_a_function_that_listens_to_ends_is_not_set_off_by_its_own(yard: Yard) -> None:
    yard.send("stepwise/go")
    yard.advance("1h")
    assert [
        row["function"] for row in rows("SELECT function FROM runyard.invocations ORDER BY id")
    ] == ["stepwise", "looping"]


def test_ends_are_told_only_where_somebody_listens(yard: Yard) -> None:
    with database.connection() as connection:
        connection.execute("DELETE FROM runyard.triggers WHERE event LIKE 'runyard/%'")
    yard.run("plain")
    assert yard.sent("runyard/function.finished") == []


def test_a_final_failure_is_a_dead_letter_until_it_is_dismissed_or_replayed(yard: Yard) -> None:
    one = yard.run("plain", {"fails": 9, "kind": "final", "n": 1})
    two = yard.run("plain", {"fails": 1, "kind": "final", "n": 2})
    [first, second] = rows("SELECT * FROM runyard.dead_letters ORDER BY id")
    assert (first["id"], first["data"]["n"], first["step"], first["message"], first["type"]) == (
        one.id,
        1,
        "work",
        "failure 1",
        "NonRetriable",
    )
    assert "raise kind" in first["traceback"] and second["id"] == two.id
    rows("SELECT runyard.dismiss(%s)", one.id)
    rows("SELECT runyard.replay(%s)", two.id)
    assert rows("SELECT * FROM runyard.dead_letters") == []


@pytest.mark.parametrize("keep", [False, True])
def test_a_replay_goes_from_the_start_or_keeps_what_is_done(yard: Yard, keep: bool) -> None:
    yard.stub("after", RuntimeError("1"), RuntimeError("2"), RuntimeError("3"), "done")
    sent = yard.send("sleeper/go", {"nap": 1})
    yard.advance("1h")
    assert sent.invocation.status == "failed"
    yard.stub("work", "worked anew")
    [row] = rows("SELECT runyard.replay(%s, %s) AS id", sent.invocation.id, keep)
    yard.advance("1h")
    first, again = sent.invocations
    assert (again.id, again.replay_of, again.status) == (row["id"], first.id, "succeeded")
    assert (again.steps["work"].output == "worked anew") is not keep


def test_a_replay_passes_no_gate_a_second_time(yard: Yard) -> None:
    sent = yard.send("once/go", {"order": 1})
    yard.work()
    rows("SELECT runyard.replay(%s)", sent.invocation.id)
    yard.work()
    assert [one.status for one in sent.invocations] == ["succeeded", "succeeded"]


@pytest.mark.parametrize("status", ["queued", "sleeping", "waiting"])
def test_what_waits_is_cancelled_at_once(yard: Yard, status: str) -> None:
    name = {"queued": "limited/go", "sleeping": "sleeper/go", "waiting": "waiter/go"}[status]
    sent = yard.send_all([Event(name, {"n": n, "tenant": n, "order": n}) for n in range(3)])
    if status != "queued":
        yard.work()
    assert {one.invocation.status for one in sent} == {status}
    rows("SELECT runyard.cancel(id) FROM runyard.invocations")
    assert {one.invocation.status for one in sent} == {"cancelled"} and yard.work() <= 3
    assert rows("SELECT count(*) AS n FROM runyard.waits") == [{"n": 0}]
    yard.advance("30d")
    assert {one.invocation.status for one in sent} == {"cancelled"}


def test_an_error_outside_every_step_counts_as_an_attempt(yard: Yard) -> None:
    sent = yard.send("plain/go")
    [batch] = yard.claim("plain")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("runyard.engine.batch.Batch.map", lambda *_: 1 / 0)
        yard.execute("plain", batch)
    assert (
        sent.invocation.status == "queued"
        and sent.invocation.error is not None
        and sent.invocation.error["type"] == "RunFailed"
    )
    yard.advance("1m")
    assert (sent.invocation.status, sent.invocation.attempt) == ("succeeded", 2)
