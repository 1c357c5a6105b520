"""Hung steps: their process is killed, and no other invocation is charged for it."""

import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from runyard import Event, send
from runyard.dagster_adapter.tags import EVENT
from runyard.engine.bulk import Selection, perform
from runyard.processes.stack import Stack
from runyard.store import database
from tests.conftest import event, settled, wait_until
from tests.stack.conftest import finished, graphql, terminate

INVOCATIONS = "SELECT crashes, attempt, run_id FROM runyard.invocations WHERE event_id = ANY (%s)"


def marks(effects: Path, key: str) -> Counter[str]:
    """The lines that the steps wrote, each with its count.

    `begun 3 1` says that the first attempt of event 3 began.
    """
    file = effects / key
    return Counter(file.read_text().splitlines() if file.exists() else [])


def rows(ids: list[str]) -> list[dict[str, Any]]:
    with database.connection() as connection:
        return [dict(row) for row in connection.execute(INVOCATIONS.encode(), (ids,)).fetchall()]


def runs_of(event_id: str) -> list[str]:
    """The runs that worked on an event, oldest first."""
    with database.connection() as connection:
        batches = connection.execute(
            "SELECT batches.run_id FROM runyard.batches, runyard.invocations"
            " WHERE event_id = %s AND invocations.id = ANY (batches.invocations)"
            " AND batches.run_id IS NOT NULL ORDER BY claimed_at",
            (event_id,),
        ).fetchall()
    return [str(batch["run_id"]) for batch in batches]


def send_to(name: str, key: str, count: int, special: dict[int, dict[str, Any]]) -> list[str]:
    """Send events numbered from 0; those with a number in `special` have more data."""
    return send([Event(name, {"key": key, "n": n, **special.get(n, {})}) for n in range(count)])


def log_of(run_id: str) -> str:
    """All messages in Dagster's log of a run."""
    query = """query($id: ID!) { logsForRun(runId: $id) {
        ... on EventConnection { events { ... on MessageEvent { message } } } } }"""
    events = graphql(query, id=run_id)["logsForRun"]["events"]
    return "\n".join(event["message"] for event in events)


def test_a_step_that_hangs_in_a_thread_is_killed_at_its_timeout_and_harms_no_other_event(
    stack: Stack, effects: Path
) -> None:
    ids = send_to("test/hanging", "limit", 40, {5: {"how": "wait", "hang_until": 1}})
    assert [settled(event_id, 60)["status"] for event_id in ids] == ["succeeded"] * 40
    lines = marks(effects, "limit")
    assert {line: count for line, count in lines.items() if line.split()[1] != "5"} == {
        f"{what} {n} 1": 1 for what in ("begun", "done") for n in range(40) if n != 5
    }
    assert [lines["begun 5 1"], lines["begun 5 2"], lines["done 5 2"]] == [1, 1, 1]
    assert {row["crashes"] for row in rows(ids)} == {0}
    [first, *_] = runs_of(ids[5])
    assert finished(first) == "FAILURE"
    assert "Step hang of invocation" in log_of(first)
    assert "its process was killed" in log_of(first)


def test_a_step_that_always_hangs_fails_with_a_timeout_after_all_its_attempts(
    stack: Stack, effects: Path
) -> None:
    [event_id] = send("test/hanging", {"key": "always", "how": "wait"})
    ended = settled(event_id, 60)
    assert (ended["status"], ended["error"]["type"], ended["error"]["step"]) == (
        "failed",
        "StepTimeout",
        "hang",
    )
    assert ended["error"]["message"].startswith("timed out after 3 s")
    assert marks(effects, "always") == {"begun 0 1": 1, "begun 0 2": 1, "begun 0 3": 1}
    assert rows([event_id])[0]["crashes"] == 0


def test_an_invocation_in_progress_in_another_thread_may_end_first(
    stack: Stack, effects: Path
) -> None:
    ids = send(
        [
            Event(
                "test/hanging",
                {"key": "beside", "n": n, "how": "" if n else "wait", "seconds": 1.2},
            )
            for n in range(15)
        ]
    )
    assert [settled(event_id, 60)["status"] for event_id in ids] == ["failed"] + ["succeeded"] * 14
    lines = marks(effects, "beside")
    assert {line: count for line, count in lines.items() if line.split()[1] != "0"} == {
        f"{what} {n} 1": 1 for what in ("begun", "done") for n in range(1, 15)
    }


def test_a_step_that_holds_the_interpreter_for_longer_than_its_lease_runs_once(
    stack: Stack, effects: Path
) -> None:
    seconds = stack.settings.lease_seconds + 4
    [event_id] = send("test/patient", {"key": "gil", "how": "gil", "seconds": seconds})
    assert settled(event_id, 60)["status"] == "succeeded"
    assert marks(effects, "gil") == {"begun 0 1": 1, "done 0 1": 1}
    assert [(row["crashes"], row["attempt"]) for row in rows([event_id])] == [(0, 1)]


def test_a_step_that_holds_the_interpreter_past_its_timeout_is_killed_and_alone_charged(
    stack: Stack, effects: Path
) -> None:
    ids = send_to("test/hanging", "gil-limit", 12, {2: {"how": "gil", "seconds": 600}})
    ended = [settled(event_id, 120) for event_id in ids]
    assert [row["status"] for row in ended] == [
        "succeeded" if n != 2 else "failed" for n in range(12)
    ]
    assert ended[2]["error"]["type"] == "StepTimeout"
    assert [row["attempt"] for n, row in enumerate(ended) if n != 2] == [1] * 11
    assert {row["crashes"] for row in rows(ids)} == {0}


def test_hung_events_do_not_stop_a_stack(stack: Stack, effects: Path) -> None:
    hung = [
        send("test/hanging", {"key": f"many{n}", "how": "wait"})[0]
        for n in range(stack.settings.concurrency)
    ]
    wait_until(lambda: all(marks(effects, f"many{n}") for n in range(len(hung))))
    [event_id] = send("test/steps", {"n": 1})
    assert settled(event_id, 60)["status"] == "succeeded"
    assert [settled(event_id, 60)["status"] for event_id in hung] == ["failed"] * len(hung)


def test_the_timeout_holds_for_an_op_in_a_process_of_its_own(stack: Stack, effects: Path) -> None:
    ids = send_to("test/apart", "apart", 6, {1: {"how": "wait", "hang_until": 1}})
    assert [settled(event_id, 180)["status"] for event_id in ids] == ["succeeded"] * 6
    assert {row["crashes"] for row in rows(ids)} == {0}
    assert sum(marks(effects, "apart").values()) == 6 * 2 + 1


@pytest.mark.parametrize("how", ["wait", "gil"])
def test_a_cancelled_invocation_with_a_hung_step_ends_and_the_others_continue(
    stack: Stack, effects: Path, how: str
) -> None:
    key = f"cancel-{how}"
    ids = send_to("test/patient", key, 8, {1: {"how": how, "seconds": 600}})
    wait_until(lambda: marks(effects, key)["begun 1 1"])
    began = time.monotonic()
    list(perform(Selection(events=(ids[1],)), "cancel"))
    assert [settled(event_id, 60)["status"] for event_id in ids] == [
        "succeeded" if n != 1 else "cancelled" for n in range(8)
    ]
    assert time.monotonic() - began < 30
    assert {row["crashes"] for row in rows(ids)} == {0}


def test_a_run_that_is_terminated_ends_although_its_threads_do_not(
    stack: Stack, effects: Path
) -> None:
    ids = send(
        [Event("test/patient", {"key": "terminate", "n": n, "how": "wait"}) for n in range(3)]
    )
    wait_until(lambda: len(marks(effects, "terminate")) == 3)
    [run_id] = {row["run_id"] for row in rows(ids)}
    terminate(run_id)
    assert finished(run_id) == "CANCELED"
    assert [settled(event_id)["status"] for event_id in ids] == ["cancelled"] * 3
    with database.connection() as connection:
        row = connection.execute(
            "SELECT worker FROM runyard.batches WHERE run_id = %s", (run_id,)
        ).fetchone()
    assert row is not None
    child = int(str(row["worker"]).rsplit(":", 1)[1])
    wait_until(
        lambda: (
            not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE
        )
    )


def test_a_worker_that_is_told_to_stop_does_not_wait_for_a_step_that_hangs(
    stack: Stack, effects: Path
) -> None:
    [event_id] = send(
        "test/patient", {"key": "stop", "how": "wait", "hang_until": 0, "seconds": 600}
    )
    wait_until(
        lambda: event(event_id)["invocations"][0]["status"] == "running" and marks(effects, "stop")
    )
    worker = psutil.Process(stack.pid("worker"))
    family = [worker, *worker.children(recursive=True)]
    worker.terminate()
    _, alive = psutil.wait_procs(family, timeout=stack.drain_timeout + 8)
    assert alive == []
    wait_until(lambda: marks(effects, "stop")["begun 0 1"] == 2, 60)
    assert [(row["crashes"], row["attempt"]) for row in rows([event_id])] == [(0, 1)]
    list(perform(Selection(events=(event_id,)), "cancel"))
    assert settled(event_id, 60)["status"] == "cancelled"


def _batches(function: str) -> list[str]:
    """The ids of all batches of a function so far."""
    with database.connection() as connection:
        rows = connection.execute(
            "SELECT id FROM runyard.batches WHERE function = %s ORDER BY id", (function,)
        ).fetchall()
    return [str(row["id"]) for row in rows]


def _lives_on(batch: str, seconds: float) -> bool:
    """Whether a batch's lease has been renewed so long after its claim."""
    with database.connection() as connection:
        row = connection.execute(
            "SELECT heartbeat_at > claimed_at + make_interval(secs => %s) AS lives_on"
            " FROM runyard.batches WHERE id = %s",
            (seconds, batch),
        ).fetchone()
    return bool(row and row["lives_on"])


def test_a_resource_may_take_longer_than_a_lease_to_create(stack: Stack, effects: Path) -> None:
    (effects / "slow").write_text(str(stack.settings.lease_seconds + 4))
    [event_id] = send("test/slow")
    assert settled(event_id, 60)["status"] == "succeeded"
    (effects / "slow").unlink()
    assert len(runs_of(event_id)) == 1


def _why_the_hurried_fails() -> str:
    """Why the function `hurried` does not start; empty if that has not been found yet."""
    with database.connection() as connection:
        row = connection.execute(
            "SELECT error->>'message' AS why FROM runyard.failed_launches"
            " WHERE function = 'hurried'"
        ).fetchone()
    return str(row["why"]) if row else ""


def test_a_resource_that_hangs_takes_one_slot_until_its_timeout_and_is_tried_again(
    stack: Stack, effects: Path
) -> None:
    (effects / "slow").write_text("600")
    [event_id] = send("test/hurried")
    why = wait_until(_why_the_hurried_fails, 60)
    assert "did not begin its batch within 3 s" in why
    [other] = send("test/steps", {"n": 1})
    assert settled(other, 30)["status"] == "succeeded"
    (effects / "slow").unlink()
    ended = settled(event_id, 60)
    assert (ended["status"], ended["attempt"]) == ("succeeded", 1)


def test_a_run_whose_resource_hangs_can_be_terminated(stack: Stack, effects: Path) -> None:
    (effects / "slow").write_text("600")
    [event_id] = send("test/slow")
    # By its event: the run of an earlier test, of the same job, may end later than its batch.
    query = """query($tag: ExecutionTag!) { runsOrError(filter: {tags: [$tag]}) {
        ... on Runs { results { runId status } } } }"""

    def started() -> str | None:
        runs = graphql(query, tag={"key": EVENT, "value": event_id})["runsOrError"]["results"]
        return next((run["runId"] for run in runs if run["status"] == "STARTED"), None)

    run_id = wait_until(started)
    before = _batches("slowly")
    wait_until(lambda: _lives_on(before[-1], stack.settings.lease_seconds), 60)
    assert _batches("slowly") == before
    worker = psutil.Process(stack.pid("worker"))
    children = {child.pid for child in worker.children()}
    terminate(run_id)
    assert (finished(run_id), settled(event_id)["status"]) == ("CANCELED", "cancelled")
    wait_until(
        lambda: (
            {child.pid for child in worker.children() if child.status() != psutil.STATUS_ZOMBIE}
            - children
        ),
        40,
    )
    (effects / "slow").unlink()
