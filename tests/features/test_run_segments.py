"""What every run did of an invocation is kept, and what waits can be run before its time."""

from datetime import timedelta
from typing import Any

import pytest

from runyard.engine import dispatch
from runyard.store import database
from runyard.store.queries import fetch_all
from runyard.testing import Yard


def segments(invocation: int) -> list[dict[str, Any]]:
    with database.connection() as connection:
        return fetch_all(connection, "run_segments", invocation=invocation)


def run_now(invocation: int) -> bool:
    with database.connection() as connection:
        return bool(fetch_all(connection, "run_invocations_now", invocations=[invocation]))


def test_each_attempt_is_kept_with_its_error_and_its_run(yard: Yard) -> None:
    invocation = yard.run("plain", {"fails": 2})
    yard.advance(10)
    yard.advance(20)
    assert invocation.status == "succeeded"
    kept = segments(invocation.id)
    assert [(segment["status"], segment["error"]["message"]) for segment in kept] == [
        ("queued", "failure 1"),
        ("queued", "failure 2"),
    ]
    assert [segment["run_id"] for segment in kept] == yard.runs[:2]


def test_one_that_goes_through_at_once_leaves_no_segment(yard: Yard) -> None:
    assert (
        segments(yard.run("plain").id)
        == []
        == segments(yard.run("plain", {"fails": 1, "kind": "final"}).id)
    )


def test_a_sleep_and_a_failure_that_is_taken_up_again_are_segments(yard: Yard) -> None:
    sleeping = yard.run("sleeper")
    [segment] = segments(sleeping.id)
    assert (segment["status"], segment["error"], segment["run_id"]) == (
        "sleeping",
        None,
        yard.runs[-1],
    )
    failed = yard.run("plain", {"fails": 1, "kind": "final"})
    batch = dispatch.batch_of_run(yard.runs[-1])
    assert batch is not None
    with database.connection() as connection:
        fetch_all(connection, "requeue_batch", parent=batch["id"])
    [segment] = segments(failed.id)
    assert (segment["status"], segment["error"]["message"], segment["run_id"]) == (
        "failed",
        "failure 1",
        yard.runs[-1],
    )


def test_a_segment_that_was_lost_with_its_worker_is_told(yard: Yard) -> None:
    sent = yard.send("plain/go")
    from runyard.functions import registry

    found = registry.find("plain")
    assert found is not None
    [claim] = dispatch.claim(found) or []
    dispatch.begin(claim.batch_id, "run-1")
    dispatch.release(
        claim.batch_id,
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


def test_a_sleep_is_cut_short_and_the_steps_behind_it_run(yard: Yard) -> None:
    invocation = yard.run("sleeper")
    assert run_now(invocation.id)
    assert yard.work() == 1
    assert (invocation.status, invocation.output) == ("succeeded", "done")
    assert not run_now(invocation.id)


def test_another_attempt_comes_at_once(yard: Yard) -> None:
    invocation = yard.run("plain", {"fails": 1})
    assert (invocation.status, yard.work()) == ("queued", 0)
    assert run_now(invocation.id)
    yard.work()
    assert invocation.status == "succeeded"


def test_an_event_for_later_and_a_debounced_one_come_at_once(yard: Yard) -> None:
    scheduled = yard.send("plain/go", ts=int((yard.now + timedelta(days=1)).timestamp() * 1000))
    yard.work()
    assert run_now(scheduled.invocation.id)
    yard.work()
    assert scheduled.invocation.status == "succeeded"


def test_what_waits_for_an_event_or_is_final_waits_for_no_time(yard: Yard) -> None:
    waiting = yard.run("waiter", {"order": 1})
    assert waiting.status == "waiting"
    assert not run_now(waiting.id)
    assert not run_now(yard.run("plain").id)
    assert not run_now(2**40)


def test_sql_has_a_door_for_it(yard: Yard) -> None:
    invocation = yard.run("sleeper")
    with database.connection() as connection:
        assert connection.execute(
            b"SELECT runyard.run_now(%s) AS done", (invocation.id,)
        ).fetchone() == {"done": True}
        assert connection.execute(
            b"SELECT runyard.run_now(%s) AS done", (invocation.id,)
        ).fetchone() == {"done": False}


@pytest.mark.parametrize("times", [1, 3])
def test_limits_hold_for_what_is_run_now(yard: Yard, times: int) -> None:
    """It is due, and no more: a paused function's invocation stays where it is."""
    invocation = yard.run("sleeper")
    dispatch.set_paused("sleeper", True)
    for _ in range(times):
        run_now(invocation.id)
    assert yard.work() == 0
    dispatch.set_paused("sleeper", False)
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
