"""What ops do with a batch: checkpoint, skip, remove items, retry."""

from collections.abc import Callable
from typing import Any

import pytest
from dagster import DagsterEventType, DagsterInstance

from runyard import Event, send
from runyard.store import database
from runyard.store.queries import Row
from tests.conftest import event
from tests.function.conftest import RunFunction


def invocations() -> list[Row]:
    with database.connection() as connection:
        return list(connection.execute("SELECT * FROM runyard.invocations ORDER BY id").fetchall())


def make_due() -> None:
    with database.connection() as connection:
        connection.execute("UPDATE runyard.invocations SET due_at = now() WHERE status = 'queued'")


def test_every_step_is_saved_for_every_invocation(run_function: RunFunction) -> None:
    ids = send([Event("test/steps", {"n": n}) for n in range(250)])
    result = run_function("steps")
    assert result.success
    rows = [event(one)["invocations"][0] for one in ids]
    assert [row["output"] for row in rows] == [{"n": n + 1, "size": 250} for n in range(250)]
    assert {tuple(step["step"] for step in row["steps"]) for row in rows} == {
        ("first", "second", "third")
    }


def test_a_failing_invocation_harms_no_neighbour(run_function: RunFunction) -> None:
    good, bad, later = send(
        [
            Event("test/steps", {"n": 1}),
            Event("test/steps", {"n": 2, "final": True}),
            Event("test/steps", {"n": 3, "fail_until": 1}),
        ]
    )
    result = run_function("steps")
    assert not result.success
    assert [event(one)["invocations"][0]["status"] for one in (good, bad, later)] == [
        "succeeded",
        "failed",
        "queued",
    ]
    assert event(bad)["invocations"][0]["error"]["message"] == "this can never work"
    assert "in second" in event(bad)["invocations"][0]["error"]["traceback"]


def test_the_op_in_which_it_failed_turns_red_and_the_outcomes_are_listed(
    run_function: RunFunction, instance: DagsterInstance
) -> None:
    send([Event("test/steps", {"n": 1}), Event("test/steps", {"n": 2, "final": True})])
    result = run_function("steps")
    stored = {
        record.step_key
        for record in instance.all_logs(result.run_id)
        if record.dagster_event and record.dagster_event.event_type == DagsterEventType.STEP_FAILURE
    }
    [settle] = [
        one
        for one in result.all_events
        if one.event_type == DagsterEventType.STEP_FAILURE and one.step_key == "settle"
    ]
    metadata: dict[str, Any] = dict(settle.step_failure_data.user_failure_data.metadata)
    assert stored == {"second", "settle"}
    assert metadata["all outcomes"].value == {"succeeded": [1], "failed": [2]}
    assert "| [2](/dev/invocations/2) |" in metadata["outcomes"].value
    assert "this can never work" in metadata["outcomes"].value


def test_a_retry_skips_what_is_done(
    run_function: RunFunction, lines: Callable[[str], list[str]]
) -> None:
    send("test/steps", {"key": "retry", "fail_until": 2})
    for _ in range(3):
        run_function("steps")
        make_due()
    [row] = invocations()
    assert (row["status"], row["attempt"]) == ("succeeded", 3)
    assert lines("retry") == ["first 0 1", "second 0 3"]


def test_the_last_attempt_is_final(run_function: RunFunction) -> None:
    send("test/steps", {"fail_until": 99})
    for _ in range(3):
        run_function("steps")
        make_due()
    [row] = invocations()
    assert (row["status"], row["attempt"]) == ("failed", 3)
    assert row["finished_at"] is not None


def test_no_secret_is_stored_with_an_error(run_function: RunFunction) -> None:
    send("test/steps", {"fail_until": 99})
    run_function("steps")
    [row] = invocations()
    assert "[redacted]" in row["error"]["message"]
    assert "SG.fake" not in str(row)


def test_retry_after_says_when(run_function: RunFunction) -> None:
    send("test/steps", {"after": 600})
    run_function("steps")
    with database.connection() as connection:
        row = connection.execute(
            "SELECT extract(epoch FROM due_at - now())::float AS wait FROM runyard.invocations"
        ).fetchone()
    assert row is not None
    assert 590 < float(str(row["wait"])) < 601


def test_data_that_does_not_fit_its_type_fails_for_good(run_function: RunFunction) -> None:
    with database.connection() as connection:
        connection.execute("SELECT runyard.send('email/send.requested', '{\"to\": \"nobody\"}')")
    run_function("send_email")
    [row] = invocations()
    assert row["status"] == "failed"
    assert "data.to: " in row["error"]["message"]


def test_events_can_be_given_in_the_config(run_function: RunFunction) -> None:
    config = {
        "ops": {
            "receive": {
                "config": {"events": [{"data": {"n": 4}}, {"name": "test/also", "data": {"n": 5}}]}
            }
        }
    }
    result = run_function("steps", run_config=config)
    assert result.success
    assert [(row["status"], row["output"]["n"]) for row in invocations()] == [
        ("succeeded", 5),
        ("succeeded", 6),
    ]


@pytest.mark.parametrize(
    ("events", "says"),
    [
        ([], "this run has no events"),
        ([{"name": "other/name"}], "not by other/name"),
        ([{"dat": {}}], "dat: unknown field"),
    ],
)
def test_a_launch_with_bad_events_says_what_to_do(
    run_function: RunFunction, events: list[dict[str, Any]], says: str
) -> None:
    result = run_function("steps", run_config={"ops": {"receive": {"config": {"events": events}}}})
    assert not result.success
    [failure] = [
        one for one in result.all_events if one.event_type == DagsterEventType.STEP_FAILURE
    ]
    assert says in str(failure.step_failure_data.error)
    assert invocations() == []


def test_a_run_that_comes_too_late_does_nothing(run_function: RunFunction) -> None:
    send("test/steps", {"n": 1})
    with database.connection() as connection:
        connection.execute(
            "INSERT INTO runyard.batches (id, function, status, invocations, run_id)"
            " VALUES ('gone', 'steps', 'lost', '{1}', 'x')"
        )
    from runyard.dagster_adapter.tags import BATCH

    result = run_function("steps", run_config={}, tags={BATCH: "gone"})
    assert not result.success
    assert [row["status"] for row in invocations()] == ["queued"]
