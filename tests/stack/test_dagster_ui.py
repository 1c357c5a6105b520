"""What the Dagster UI's buttons do: re-execute, terminate, switch a sensor."""

import json
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


def running(event_id: str) -> str:
    """Wait until a run works on an event; return the run's id."""

    def run_id() -> str | None:
        rows = invocations(event_id)
        return rows[0]["run_id"] if rows and rows[0]["status"] == "running" else None

    return wait_until(run_id)


def test_re_executing_all_replays_the_events_as_new_invocations(effects: Path) -> None:
    ids = send([Event("test/steps", {"key": "again", "n": n}) for n in range(3)])
    run_id = settled(ids[0])["run_id"]
    assert finished(run_id) == "SUCCESS"
    replay = reexecute(run_id, "ALL_STEPS")
    assert finished(replay) == "SUCCESS"
    for event_id in ids:
        first, second = invocations(event_id)
        assert (second["replay_of"], second["run_id"], second["status"]) == (
            first["id"],
            replay,
            "succeeded",
        )
    assert (effects / "again").read_text().count("second") == 6


def test_re_executing_from_failure_resumes_after_the_last_completed_step(
    effects: Path, tmp_path: Path
) -> None:
    fixed = tmp_path / "fixed"
    good, bad = send(
        [
            Event("test/steps", {"key": "fix", "n": 1}),
            Event("test/steps", {"key": "fix", "n": 2, "final": True, "unless": str(fixed)}),
        ]
    )
    failed = settled(bad)
    assert failed["status"] == "failed"
    assert finished(failed["run_id"]) == "FAILURE"
    fixed.touch()
    resumed = reexecute(failed["run_id"], "FROM_FAILURE")
    assert finished(resumed) == "SUCCESS"
    [row] = invocations(bad)
    assert (row["status"], row["attempt"], row["run_id"]) == ("succeeded", 2, resumed)
    assert [row["status"] for row in invocations(good)] == ["succeeded"]
    assert sorted((effects / "fix").read_text().splitlines()) == [
        "first 1 1",
        "first 2 1",
        "second 1 1",
        "second 2 2",
    ]


def test_from_failure_of_a_refused_event_leaves_the_others_alone(effects: Path) -> None:
    good_mail = {"to": "neighbour@example.com", "subject": "s", "text": "t"}
    bad_mail = {"to": "nobody"}
    events = [{"name": "email/send.requested", "data": data} for data in (good_mail, bad_mail)]
    with database.connection() as connection:  # SQL cannot check the type: receive does
        rows = connection.execute(
            "SELECT id FROM runyard.send_v1(%s::jsonb, 'test') AS id", (json.dumps(events),)
        ).fetchall()
    good_id, bad_id = (str(row["id"]) for row in rows)
    run_id = settled(bad_id)["run_id"]
    assert settled(good_id)["run_id"] == run_id
    assert finished(run_id) == "FAILURE"
    resumed = reexecute(run_id, "FROM_FAILURE")
    assert finished(resumed) == "FAILURE"
    assert [(row["status"], row["attempt"]) for row in invocations(bad_id)] == [("failed", 2)]
    assert [row["run_id"] for row in invocations(good_id)] == [run_id]


def test_from_failure_of_what_has_succeeded_meanwhile_finds_nothing_to_do() -> None:
    [event_id] = send("test/steps", {"fail_until": 1})

    def failed_run() -> str | None:
        rows = invocations(event_id)
        failed = rows and (rows[0]["attempt"], rows[0]["status"]) == (1, "queued")
        return rows[0]["run_id"] if failed else None

    first = wait_until(failed_run)
    assert settled(event_id)["status"] == "succeeded"
    resumed = reexecute(first, "FROM_FAILURE")
    assert finished(resumed) == "SUCCESS"
    assert [(row["status"], row["attempt"]) for row in invocations(event_id)] == [("succeeded", 2)]


def test_terminating_a_run_cancels_it_and_its_invocations(tmp_path: Path) -> None:
    [event_id] = send("test/steps", {"gate": str(tmp_path / "never")})
    run_id = running(event_id)
    assert terminate(run_id) == "TerminateRunSuccess"
    assert finished(run_id) == "CANCELED"
    assert settled(event_id)["status"] == "cancelled"


def test_forcing_a_run_that_waits_for_a_worker_cancels_it_before_it_begins(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    busy: list[str] = []
    for number in range(2):  # both slots
        busy += send("test/steps", {"gate": str(gate), "n": number})
        running(busy[-1])
    [waiting] = send("test/steps", {"n": 9})
    query = """query($filter: RunsFilter) {
        runsOrError(filter: $filter) { ... on Runs { results { runId status } } } }"""
    tagged = {"tags": [{"key": "runyard/event", "value": waiting}]}
    [run] = wait_until(lambda: graphql(query, filter=tagged)["runsOrError"]["results"])
    wait_until(lambda: run_status(run["runId"]) == "STARTING")
    # Dagster terminates a run that is starting only by force.
    assert terminate(run["runId"], "MARK_AS_CANCELED_IMMEDIATELY") == "TerminateRunSuccess"
    assert finished(run["runId"], 5) == "CANCELED"
    gate.touch()
    assert [settled(each)["status"] for each in busy] == ["succeeded", "succeeded"]
    assert settled(waiting)["status"] == "cancelled"
    assert invocations(waiting)[0]["steps"] == []


def test_a_sensor_can_be_switched_off_and_on() -> None:
    selector = {**LOCATION, "sensorName": "steps_sensor"}
    query = """query($s: SensorSelector!) {
        sensorOrError(sensorSelector: $s) { ... on Sensor { id sensorState { id status } } } }"""
    sensor = graphql(query, s=selector)["sensorOrError"]
    assert sensor["sensorState"]["status"] == "RUNNING"
    stop = """mutation($id: String!) {
        stopSensor(id: $id) { __typename ... on PythonError { message } } }"""
    start = """mutation($s: SensorSelector!) {
        startSensor(sensorSelector: $s) { __typename ... on PythonError { message } } }"""
    assert graphql(stop, id=sensor["id"])["stopSensor"]["__typename"] == "StopSensorMutationResult"
    [held] = send("test/steps", {"n": 2})
    assert settled(send("test/swallow", {"n": 1})[0])["status"] == "succeeded"
    assert invocations(held)[0]["status"] == "queued"
    assert graphql(start, s=selector)["startSensor"]["__typename"] == "Sensor"
    assert settled(held)["status"] == "succeeded"


def test_the_ui_lists_jobs_and_sensors() -> None:
    query = """query($s: RepositorySelector!) {
        repositoryOrError(repositorySelector: $s) { ... on Repository {
            jobs { name } sensors { name sensorState { status } }
        } } }"""
    repository = graphql(query, s=LOCATION)["repositoryOrError"]
    assert {"send_email", "steps", "breaking"} <= {job["name"] for job in repository["jobs"]}
    states = {sensor["name"]: sensor["sensorState"]["status"] for sensor in repository["sensors"]}
    assert states["send_email_sensor"] == "RUNNING"
