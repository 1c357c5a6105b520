"""What the Dagster UI's buttons do: re-execute, terminate, switch a sensor."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from runyard import Event, send
from runyard.store import database
from tests.conftest import event, settled, wait_until
from tests.stack.conftest import LOCATION, finished, graphql, reexecute, run_status, terminate

pytestmark = pytest.mark.usefixtures("stack")


def invocations(event_id: str) -> list[dict[str, Any]]:
    return event(event_id)["invocations"]


def under_way(event_id: str) -> str:
    """Wait until a run works on an event; return the run's id."""
    return wait_until(
        lambda: (
            (found := invocations(event_id))
            and found[0]["status"] == "running"
            and found[0]["run_id"]
        )
    )


def test_re_executing_all_replays_the_events_as_new_invocations(effects: Path) -> None:
    ids = send([Event("test/steps", {"key": "again", "n": n}) for n in range(3)])
    run_id = settled(ids[0])["run_id"]
    assert finished(run_id) == "SUCCESS"
    replay = reexecute(run_id, "ALL_STEPS")
    assert finished(replay) == "SUCCESS"
    for one in ids:
        first, second = invocations(one)
        assert (second["replay_of"], second["run_id"], second["status"]) == (
            first["id"],
            replay,
            "succeeded",
        )
    assert (effects / "again").read_text().count("second") == 6


def test_re_executing_from_failure_goes_on_behind_the_last_kept_step(
    effects: Path, tmp_path: Path
) -> None:
    mended = tmp_path / "mended"
    good, bad = send(
        [
            Event("test/steps", {"key": "mend", "n": 1}),
            Event("test/steps", {"key": "mend", "n": 2, "final": True, "unless": str(mended)}),
        ]
    )
    failed = settled(bad)
    assert failed["status"] == "failed" and finished(failed["run_id"]) == "FAILURE"
    mended.touch()
    resumed = reexecute(failed["run_id"], "FROM_FAILURE")
    assert finished(resumed) == "SUCCESS"
    [row] = invocations(bad)
    assert (row["status"], row["attempt"], row["run_id"]) == ("succeeded", 2, resumed)
    assert [one["status"] for one in invocations(good)] == ["succeeded"]
    assert sorted((effects / "mend").read_text().splitlines()) == [
        "first 1 1",
        "first 2 1",
        "second 1 1",
        "second 2 2",
    ]


def test_from_failure_of_a_refused_event_leaves_its_neighbours_alone(effects: Path) -> None:
    bad = {"name": "email/send.requested", "data": {"to": "nobody"}}
    with database.connection() as connection:  # SQL cannot check the type: receive does
        good_id, bad_id = (
            str(row["id"])
            for row in connection.execute(
                "SELECT id FROM runyard.send_v1(%s::jsonb, 'test') AS id",
                (
                    json.dumps(
                        [
                            {
                                "name": "email/send.requested",
                                "data": {
                                    "to": "neighbour@example.com",
                                    "subject": "s",
                                    "text": "t",
                                },
                            },
                            bad,
                        ]
                    ),
                ),
            ).fetchall()
        )
    run_id = settled(bad_id)["run_id"]
    assert settled(good_id)["run_id"] == run_id
    assert finished(run_id) == "FAILURE"
    resumed = reexecute(run_id, "FROM_FAILURE")
    assert finished(resumed) == "FAILURE"
    assert [(one["status"], one["attempt"]) for one in invocations(bad_id)] == [("failed", 2)]
    assert [one["run_id"] for one in invocations(good_id)] == [run_id]


def test_from_failure_of_what_has_succeeded_meanwhile_finds_nothing_to_do() -> None:
    [event_id] = send("test/steps", {"fail_until": 1})
    first = wait_until(
        lambda: (
            (found := invocations(event_id))
            and found[0]["attempt"] == 1
            and found[0]["status"] == "queued"
            and found[0]["run_id"]
        )
    )
    assert settled(event_id)["status"] == "succeeded"
    resumed = reexecute(first, "FROM_FAILURE")
    assert finished(resumed) == "SUCCESS"
    assert [(one["status"], one["attempt"]) for one in invocations(event_id)] == [("succeeded", 2)]


def test_terminating_a_run_cancels_it_and_its_invocations(tmp_path: Path) -> None:
    [event_id] = send("test/steps", {"gate": str(tmp_path / "never")})
    run_id = under_way(event_id)
    assert terminate(run_id) == "TerminateRunSuccess"
    assert finished(run_id) == "CANCELED"
    assert settled(event_id)["status"] == "cancelled"


def test_forcing_a_run_that_waits_for_a_worker_cancels_it_before_it_begins(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    busy: list[str] = []
    for number in range(2):  # both slots
        busy += send("test/steps", {"gate": str(gate), "n": number})
        under_way(busy[-1])
    [waiting] = send("test/steps", {"n": 9})
    query = """query($filter: RunsFilter) { runsOrError(filter: $filter) { ... on Runs { results { runId status } } } }"""
    look = {"tags": [{"key": "runyard/event", "value": waiting}]}
    [run] = wait_until(lambda: graphql(query, filter=look)["runsOrError"]["results"])
    wait_until(lambda: run_status(run["runId"]) == "STARTING")
    # Dagster lets a run that is starting be terminated by force only.
    assert terminate(run["runId"], "MARK_AS_CANCELED_IMMEDIATELY") == "TerminateRunSuccess"
    assert finished(run["runId"], 5) == "CANCELED"
    gate.touch()
    assert [settled(one)["status"] for one in busy] == ["succeeded", "succeeded"]
    assert settled(waiting)["status"] == "cancelled" and invocations(waiting)[0]["steps"] == []


def test_a_sensor_can_be_switched_off_and_on() -> None:
    selector = {**LOCATION, "sensorName": "steps_sensor"}
    state = graphql(
        "query($s: SensorSelector!) { sensorOrError(sensorSelector: $s) { ... on Sensor { id sensorState { id status } } } }",
        s=selector,
    )
    sensor = state["sensorOrError"]
    assert sensor["sensorState"]["status"] == "RUNNING"
    stop = "mutation($id: String!) { stopSensor(id: $id) { __typename ... on PythonError { message } } }"
    start = "mutation($s: SensorSelector!) { startSensor(sensorSelector: $s) { __typename ... on PythonError { message } } }"
    assert graphql(stop, id=sensor["id"])["stopSensor"]["__typename"] == "StopSensorMutationResult"
    # The tick that waits already is the last one: it takes what is sent next.
    assert settled(send("test/steps", {"n": 1})[0], 60)["status"] == "succeeded"
    [held] = send("test/steps", {"n": 2})
    time.sleep(4)
    assert invocations(held)[0]["status"] == "queued"
    assert graphql(start, s=selector)["startSensor"]["__typename"] == "Sensor"
    assert settled(held)["status"] == "succeeded"


def test_the_ui_lists_jobs_and_sensors() -> None:
    query = """query($s: RepositorySelector!) { repositoryOrError(repositorySelector: $s) { ... on Repository {
        jobs { name } sensors { name sensorState { status } } } } }"""
    found = graphql(query, s=LOCATION)["repositoryOrError"]
    assert {"send_email", "steps", "breaking"} <= {job["name"] for job in found["jobs"]}
    assert {(one["name"], one["sensorState"]["status"]) for one in found["sensors"]} >= {
        ("send_email_sensor", "RUNNING")
    }
