"""Runs that do not come to begin: whatever the reason is, it is no attempt, and it is said."""

import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dagster import (
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    in_process_executor,
    job,
    op,
    resource,
)
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.events import DagsterEvent
from dagster._core.launcher import LaunchRunContext
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
from kombu.exceptions import OperationalError

from runyard import Batch, receive, send, settle
from runyard.dagster_adapter.launcher import WarmRunLauncher
from runyard.dagster_adapter.maintenance import SERVICES, ServiceSchedule
from runyard.dagster_adapter.reaper import (
    end_unbegun_runs,
    reap,
    reclaim_unlaunched,
    settle_orphaned,
)
from runyard.dagster_adapter.tags import BATCH
from runyard.engine import batch_claims, batch_leases
from runyard.functions.registry import Function
from runyard.gateway.dev.blockers import Reason, reasons
from runyard.processes.checks import checks
from runyard.processes.daemon import reclaim_from_predecessor
from runyard.settings import settings
from runyard.store import database
from runyard.store.queries import fetch_all, fetch_one
from tests.conftest import event
from tests.ports import free_port
from tests.servers import redis


@resource
def away() -> None:
    raise ConnectionError("no such host, with password=hunter2secret")


@op(required_resource_keys={"away"})
def ask(batch: Batch) -> Batch:
    return batch


@job(executor_def=in_process_executor, resource_defs={"away": away})
def greet_job() -> None:
    settle(ask(receive()))


ORIGIN = JobPythonOrigin(
    "greet_job",
    RepositoryPythonOrigin(
        sys.executable, ModuleCodePointer("tests.store.test_launches", "greet_job", None)
    ),
)


@pytest.fixture
def instance(store_url: str) -> Iterator[DagsterInstance]:
    """The Dagster instance of the project, in the database of these tests."""
    with DagsterInstance.get() as made:
        yield made


def claimed(function: Function) -> tuple[str, str]:
    """Send an event and claim it: its id, and the batch's."""
    [event_id] = send("greet/requested")
    with database.connection() as connection:
        fetch_all(
            connection,
            "heartbeat_worker",
            name="w",
            host="h",
            pid=1,
            slots=2,
            pid_namespace="p",
            remote=False,
        )
    [claim] = batch_claims.claim(function) or []
    return event_id, claim.batch_id


def made_run(instance: DagsterInstance, batch_id: str) -> DagsterRun:
    return instance.create_run_for_job(greet_job, tags={BATCH: batch_id}, job_code_origin=ORIGIN)


def launch(instance: DagsterInstance, made: DagsterRun) -> None:
    launcher = WarmRunLauncher()
    launcher.register_instance(instance)
    launcher.launch_run(LaunchRunContext(made, workspace=None))


def held(event_id: str) -> list[Reason]:
    """What the dev page says of why an event's invocation does not run."""
    with database.connection() as connection:
        row = fetch_one(connection, "blockers", invocation=event(event_id)["invocations"][0]["id"])
    assert row is not None
    return reasons(row, [], 2, 0)


@pytest.fixture
def away_broker(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A broker at an address where nobody listens."""
    monkeypatch.setenv("RUNYARD_BROKER_URL", f"redis://127.0.0.1:{free_port()}/0")
    settings.cache_clear()
    yield
    monkeypatch.undo()
    settings.cache_clear()


@pytest.fixture(params=["redis", "amqp"])
def hanging_broker(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """A broker that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("RUNYARD_BROKER_URL", f"{request.param}://{address}")
        settings.cache_clear()
        yield
        monkeypatch.undo()
        settings.cache_clear()


@pytest.mark.usefixtures("hanging_broker")
def test_a_broker_that_hangs_ends_the_hand_over_with_an_error(
    function: Function, instance: DagsterInstance
) -> None:
    _, batch_id = claimed(function)
    launcher = WarmRunLauncher()
    launcher.register_instance(instance)
    run = made_run(instance, batch_id)
    errors: list[Exception] = []

    def hand_over() -> None:
        try:
            launcher.hand_over(run)
        except Exception as error:
            errors.append(error)

    handing_over = threading.Thread(target=hand_over, daemon=True)
    handing_over.start()
    handing_over.join(60)
    assert len(errors) == 1


@pytest.fixture
def broker_that_hangs_later(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Callable[[], None]]:
    """A Redis that answers until this is called."""
    with redis(tmp_path) as broker:
        monkeypatch.setenv("RUNYARD_BROKER_URL", broker.url)
        settings.cache_clear()
        yield broker.hang
    monkeypatch.undo()
    settings.cache_clear()


@pytest.mark.slow
def test_a_claim_does_not_seem_lost_while_a_broker_that_hangs_is_asked_for_its_run(
    function: Function, instance: DagsterInstance, broker_that_hangs_later: Callable[[], None]
) -> None:
    _, batch_id = claimed(function)
    launcher = WarmRunLauncher()
    launcher.register_instance(instance)
    run = made_run(instance, batch_id)
    launcher.hand_over(run)
    broker_that_hangs_later()
    with pytest.raises(OperationalError):
        launcher.hand_over(run)
    assert batch_leases.unlaunched(batch_claims.LAUNCH_SECONDS) == []


@pytest.mark.usefixtures("away_broker")
def test_without_a_broker_a_launch_is_no_attempt_and_the_reason_is_shown(
    function: Function, instance: DagsterInstance
) -> None:
    event_id, batch_id = claimed(function)
    with pytest.raises(Exception, match="refused"):
        launch(instance, made_run(instance, batch_id))
    [invocation] = event(event_id)["invocations"]
    assert (invocation["status"], invocation["attempt"]) == ("queued", 0)
    assert (
        "its run could not be launched (OperationalError: Error 111 connecting to 127.0.0.1"
        in invocation["error"]["message"]
    )
    [reason] = held(event_id)
    assert reason.text == f"waiting: {invocation['error']['message']}"
    assert reason.until is not None


def test_with_a_folder_of_the_broker_that_takes_no_files_it_is_no_attempt(
    function: Function, instance: DagsterInstance, tmp_path: Path
) -> None:
    event_id, batch_id = claimed(function)
    launcher = WarmRunLauncher()
    launcher.register_instance(instance)
    queue = settings().broker_dir / "queue"
    queue.rename(tmp_path / "queue")
    queue.touch()
    try:
        with pytest.raises(Exception, match="Not a directory"):
            launcher.launch_run(LaunchRunContext(made_run(instance, batch_id), workspace=None))
    finally:
        queue.unlink()
        (tmp_path / "queue").rename(queue)
    [invocation] = event(event_id)["invocations"]
    assert (invocation["status"], invocation["attempt"]) == ("queued", 0)


def test_doctor_asks_for_the_data_folder_and_not_for_the_projects_which_may_be_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, data = tmp_path / "project", tmp_path / "data"
    project.mkdir()
    data.mkdir(mode=0o700)
    monkeypatch.setenv("RUNYARD_HOME", str(project))
    monkeypatch.setenv("RUNYARD_DATA_DIR", str(data))
    settings.cache_clear()
    # Root, who may run this test, can write to any folder.
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) == data)
    [check] = [each for each in checks() if each.name == "broker"]
    monkeypatch.undo()
    settings.cache_clear()
    assert check.ok, check.says


def test_a_run_that_fails_before_it_begins_is_no_attempt_and_its_root_is_shown(
    function: Function, instance: DagsterInstance
) -> None:
    event_id, batch_id = claimed(function)
    result = greet_job.execute_in_process(
        instance=instance, tags={BATCH: batch_id}, raise_on_error=False
    )
    assert settle_orphaned(instance, result.run_id)
    [invocation] = event(event_id)["invocations"]
    assert (invocation["status"], invocation["attempt"]) == ("queued", 0)
    assert "no such host" in invocation["error"]["message"]
    assert "hunter2secret" not in invocation["error"]["message"]


def test_what_failed_to_launch_while_the_database_was_away_is_found_when_it_is_overdue(
    function: Function, instance: DagsterInstance
) -> None:
    event_id, batch_id = claimed(function)
    made = made_run(instance, batch_id)
    assert batch_leases.mark_launching(batch_id)
    instance.report_run_failed(made, "no database")
    with database.connection() as connection:
        connection.execute("UPDATE runyard.batches SET heartbeat_at = now() - interval '1 hour'")
    reap(instance, batch_leases.overdue())
    [invocation] = event(event_id)["invocations"]
    assert (invocation["status"], invocation["attempt"]) == ("queued", 0)
    assert batch_claims.claim(function) == []


def test_a_run_whose_batch_was_taken_back_is_cancelled_instead_of_launched(
    function: Function, instance: DagsterInstance
) -> None:
    _, batch_id = claimed(function)
    made = made_run(instance, batch_id)
    batch_leases.release(batch_id, "claimed", "queued", attempts=3, force=True)
    launch(instance, made)
    ended = instance.get_run_by_id(made.run_id)
    assert ended is not None
    assert ended.status == DagsterRunStatus.CANCELED


def _claimed_long_ago() -> None:
    with database.connection() as connection:
        connection.execute("UPDATE runyard.batches SET claimed_at = now() - interval '8 seconds'")


def test_a_claim_that_nobody_launched_is_taken_back_after_seconds_and_its_run_with_it(
    function: Function, instance: DagsterInstance
) -> None:
    event_id, batch_id = claimed(function)
    made = made_run(instance, batch_id)
    assert reclaim_unlaunched(lambda: instance) == 0
    _claimed_long_ago()
    assert reclaim_unlaunched(lambda: instance) == 1
    [invocation] = event(event_id)["invocations"]
    assert (invocation["status"], invocation["attempt"]) == ("queued", 0)
    assert "never launched" in invocation["error"]["message"]
    ended = instance.get_run_by_id(made.run_id)
    assert ended is not None
    assert ended.status == DagsterRunStatus.CANCELED


def test_a_run_of_a_batch_that_was_released_before_it_began_does_not_stay_open(
    function: Function, instance: DagsterInstance
) -> None:
    """As when the process that released the batch is killed before it ends the run."""
    event_id, batch_id = claimed(function)
    made = made_run(instance, batch_id)
    batch_leases.release(batch_id, "claimed", "queued", attempts=3, force=True)
    with database.connection() as connection:
        connection.execute("UPDATE runyard.batches SET finished_at = now() - interval '1 hour'")
    ServiceSchedule(SERVICES).run_due(lambda: instance)
    ended = instance.get_run_by_id(made.run_id)
    assert ended is not None
    assert ended.status == DagsterRunStatus.CANCELED
    assert event(event_id)["invocations"][0]["status"] == "queued"
    assert batch_leases.unbegun() == []


def test_a_run_that_re_executes_one_of_a_released_batch_goes_on(
    function: Function, instance: DagsterInstance
) -> None:
    _, batch_id = claimed(function)
    made = made_run(instance, batch_id)
    again = instance.create_run_for_job(
        greet_job,
        tags={BATCH: batch_id},
        job_code_origin=ORIGIN,
        parent_run_id=made.run_id,
        root_run_id=made.run_id,
    )
    end_unbegun_runs(instance, [batch_id])
    running = instance.get_run_by_id(again.run_id)
    assert running is not None
    assert running.status == DagsterRunStatus.NOT_STARTED


def test_a_daemon_that_starts_takes_back_the_claims_of_its_predecessor_at_once(
    function: Function, instance: DagsterInstance
) -> None:
    _, batch_id = claimed(function)
    reclaim_from_predecessor(instance)
    [again] = batch_claims.claim(function) or []
    assert again.batch_id != batch_id


def test_a_claim_that_was_launched_is_not_taken_back(
    function: Function, instance: DagsterInstance
) -> None:
    claimed(function)
    [batch] = batch_leases.unlaunched(0)
    assert batch_leases.mark_launching(batch["id"])
    reclaim_from_predecessor(instance)
    assert batch_leases.batch_of_run("none", batch["id"])["status"] == "claimed"  # type: ignore[index]


def test_a_run_that_another_launcher_has_launched_keeps_its_claim(
    function: Function, instance: DagsterInstance, tmp_path: Path
) -> None:
    _, batch_id = claimed(function)
    made = made_run(instance, batch_id)
    instance.report_dagster_event(
        DagsterEvent(DagsterEventType.PIPELINE_STARTING.value, job_name="greet_job"),
        run_id=made.run_id,
    )
    _claimed_long_ago()
    (tmp_path / "dagster.yaml").write_text(
        "storage:\n  postgres:\n    postgres_url:\n      env: DATABASE_URL\n"
    )
    with DagsterInstance.from_config(str(tmp_path)) as with_dagsters_launcher:
        reclaim_unlaunched(lambda: with_dagsters_launcher)
    assert batch_leases.unlaunched(0) == []
    assert batch_leases.begin(batch_id, made.run_id) is not None
