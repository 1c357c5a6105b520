"""The history of an invocation, run by run; and running what waits before its time."""

from datetime import timedelta
from typing import Any

import pytest

from runyard.engine import batch_leases
from runyard.engine.control import set_paused
from runyard.store import database
from runyard.store.queries import fetch_all
from runyard.testing import Yard


def segments(invocation: int) -> list[dict[str, Any]]:
    with database.connection() as connection:
        return fetch_all(connection, "run_segments", invocation=invocation)


def run_now(invocation: int) -> bool:
    with database.connection() as connection:
        return bool(fetch_all(connection, "run_invocations_now", invocations=[invocation]))


def test_each_attempt_is_recorded_with_its_error_and_its_run(yard: Yard) -> None:
    invocation = yard.run("plain", {"fails": 2})
    yard.advance(10)
    yard.advance(20)
    assert invocation.status == "succeeded"
    history = segments(invocation.id)
    assert [(segment["status"], segment["error"]["message"]) for segment in history] == [
        ("queued", "failure 1"),
        ("queued", "failure 2"),
    ]
    assert [segment["run_id"] for segment in history] == yard.runs[:2]


def test_an_invocation_that_ends_in_its_first_run_has_no_segment(yard: Yard) -> None:
    assert segments(yard.run("plain").id) == []
    assert segments(yard.run("plain", {"fails": 1, "kind": "final"}).id) == []


def test_a_sleep_and_a_failure_that_is_requeued_are_segments(yard: Yard) -> None:
    sleeping = yard.run("sleeper")
    [segment] = segments(sleeping.id)
    assert (segment["status"], segment["error"], segment["run_id"]) == (
        "sleeping",
        None,
        yard.runs[-1],
    )
    failed = yard.run("plain", {"fails": 1, "kind": "final"})
    batch = batch_leases.batch_of_run(yard.runs[-1])
    assert batch is not None
    with database.connection() as connection:
        fetch_all(connection, "requeue_batch", parent=batch["id"])
    [segment] = segments(failed.id)
    assert (segment["status"], segment["error"]["message"], segment["run_id"]) == (
        "failed",
        "failure 1",
        yard.runs[-1],
    )


def test_a_segment_that_was_lost_with_its_worker_says_so(yard: Yard) -> None:
    sent = yard.send("plain/go")
    [batch] = yard.claim("plain")
    batch_leases.begin(batch, "run-1")
    batch_leases.release(
        batch,
        "running",
        "queued",
        attempts=3,
        crashed=True,
        force=True,
        error='{"message": "the worker was lost"}',
    )
    assert [
        (segment["status"], segment["run_id"], segment["error"])
        for segment in segments(sent.invocation.id)
    ] == [("lost", "run-1", {"message": "the worker was lost"})]


def test_a_sleep_is_cut_short_and_the_steps_after_it_run(yard: Yard) -> None:
    invocation = yard.run("sleeper")
    assert run_now(invocation.id)
    assert yard.work() == 1
    assert (invocation.status, invocation.output) == ("succeeded", "done")
    assert not run_now(invocation.id)


def test_another_attempt_can_be_run_now(yard: Yard) -> None:
    invocation = yard.run("plain", {"fails": 1})
    assert (invocation.status, yard.work()) == ("queued", 0)
    assert run_now(invocation.id)
    yard.work()
    assert invocation.status == "succeeded"


def test_a_scheduled_event_can_be_run_now(yard: Yard) -> None:
    scheduled = yard.send("plain/go", ts=int((yard.now + timedelta(days=1)).timestamp() * 1000))
    yard.work()
    assert run_now(scheduled.invocation.id)
    yard.work()
    assert scheduled.invocation.status == "succeeded"


def test_what_waits_for_an_event_or_has_finished_cannot_be_run_now(yard: Yard) -> None:
    waiting = yard.run("waiter", {"order": 1})
    assert waiting.status == "waiting"
    assert not run_now(waiting.id)
    assert not run_now(yard.run("plain").id)
    assert not run_now(2**40)


def test_an_invocation_can_be_run_now_from_sql(yard: Yard) -> None:
    invocation = yard.run("sleeper")
    with database.connection() as connection:
        assert connection.execute(
            b"SELECT runyard.run_now(%s) AS done", (invocation.id,)
        ).fetchone() == {"done": True}
        assert connection.execute(
            b"SELECT runyard.run_now(%s) AS done", (invocation.id,)
        ).fetchone() == {"done": False}


@pytest.mark.parametrize("times", [1, 3])
def test_flow_control_applies_to_what_is_run_now(yard: Yard, times: int) -> None:
    invocation = yard.run("sleeper")
    set_paused("sleeper", True)
    for _ in range(times):
        run_now(invocation.id)
    assert yard.work() == 0
    set_paused("sleeper", False)
    yard.work()
    assert invocation.status == "succeeded"


def test_the_command_says_which_are_due_now(yard: Yard) -> None:
    from click.testing import CliRunner

    from runyard.cli.main import main

    sleeping, done = yard.run("sleeper"), yard.run("plain")
    said = CliRunner().invoke(main, ["run-now", str(sleeping.id), str(done.id)])
    assert said.exit_code == 0
    assert said.output.splitlines() == [
        f"{sleeping.id}: due now",
        f"{done.id}: not waiting for a time, left as it is",
    ]
    assert CliRunner().invoke(main, ["run-now", str(done.id)]).exit_code == 1
