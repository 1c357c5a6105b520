"""The event log that a worker writes in batches: complete, in order, and in time."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from dagster import (
    AssetKey,
    AssetMaterialization,
    AssetObservation,
    DagsterEvent,
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    EventLogEntry,
    job,
    op,
)
from dagster._core.events import AssetObservationData, EngineEventData, StepMaterializationData
from dagster_postgres import PostgresEventLogStorage
from dagster_postgres.utils import DagsterPostgresException, retry_pg_connection_fn
from sqlalchemy import event as hooks
from sqlalchemy.exc import OperationalError

from runyard.dagster_adapter import event_log, reaper
from runyard.dagster_adapter.event_log import BatchingEventLogStorage, batching
from runyard.dagster_adapter.internals import pooled_instance
from tests.conftest import ROOT, wait_until
from tests.tables import database_away


@op
def nothing_at_all() -> None:
    pass


@job
def nothing() -> None:
    nothing_at_all()


@pytest.fixture
def instance(store_url: str) -> Iterator[DagsterInstance]:
    """The pooled instance of a process that writes events in batches."""
    with pooled_instance() as made, batching(made):
        yield made


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time alone writes nothing, so that a test sees what does."""
    monkeypatch.setattr(event_log, "_SECONDS", 3600.0)


@pytest.fixture
def run(patient: None, instance: DagsterInstance) -> DagsterRun:
    return instance.create_run_for_job(nothing)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dagster tries to connect for a moment, not for ten seconds."""
    monkeypatch.setattr(retry_pg_connection_fn, "__defaults__", (1, 0.02))


def report(instance: DagsterInstance, run: DagsterRun, *numbers: int) -> None:
    for number in numbers:
        instance.report_engine_event(str(number), run)


def report_status(instance: DagsterInstance, run: DagsterRun, kind: DagsterEventType) -> None:
    is_engines = kind == DagsterEventType.STEP_WORKER_STARTING
    data = EngineEventData({}) if is_engines else None
    event = DagsterEvent(
        kind.value, job_name=run.job_name, message=kind.value, event_specific_data=data
    )
    instance.report_dagster_event(event, run.run_id)


def stored(url: str, run: DagsterRun) -> list[str]:
    """The messages of a run's log, as another process reads them."""
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT event FROM event_logs WHERE run_id = %s ORDER BY id", [run.run_id]
        ).fetchall()
    events = [json.loads(event) for (event,) in rows]
    return [
        event["dagster_event"]["message"] or event["dagster_event"]["event_type_value"]
        if event["dagster_event"]
        else event["user_message"]
        for event in events
    ]


@contextmanager
def losing_a_connection(instance: DagsterInstance) -> Iterator[None]:
    """Lose the connection when the next rows of the log have been written, before it is known."""
    engine = vars(instance.event_log_storage)["_engine"]

    def lose(connection: Any, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("INSERT INTO event_logs"):
            hooks.remove(engine, "after_cursor_execute", lose)
            connection.invalidate()
            lost = Exception("the connection was lost")
            raise OperationalError(statement, {}, lost, connection_invalidated=True)

    hooks.listen(engine, "after_cursor_execute", lose)
    yield


def test_the_projects_instance_has_this_log(instance: DagsterInstance) -> None:
    assert isinstance(instance.event_log_storage, BatchingEventLogStorage)


def test_events_are_collected(store_url: str, instance: DagsterInstance, run: DagsterRun) -> None:
    report(instance, run, 1, 2)
    assert stored(store_url, run) == []


@pytest.mark.parametrize(
    "kind",
    [
        DagsterEventType.RUN_START,
        DagsterEventType.RUN_SUCCESS,
        DagsterEventType.RUN_FAILURE,
        DagsterEventType.RUN_CANCELED,
        DagsterEventType.STEP_WORKER_STARTING,
    ],
)
def test_an_event_of_a_runs_status_is_written_at_once_after_those_before_it(
    store_url: str, instance: DagsterInstance, run: DagsterRun, kind: DagsterEventType
) -> None:
    report(instance, run, 1, 2)
    report_status(instance, run, kind)
    assert stored(store_url, run) == ["1", "2", kind.value]


def test_the_status_of_a_run_follows_its_events(instance: DagsterInstance, run: DagsterRun) -> None:
    report_status(instance, run, DagsterEventType.RUN_START)
    report_status(instance, run, DagsterEventType.RUN_SUCCESS)
    read = instance.get_run_by_id(run.run_id)
    assert read is not None
    assert read.status == DagsterRunStatus.SUCCESS


def test_a_hundred_events_are_written(
    store_url: str, instance: DagsterInstance, run: DagsterRun
) -> None:
    report(instance, run, *range(100))
    assert stored(store_url, run) == [str(number) for number in range(100)]


def test_large_events_are_written_before_there_are_a_hundred(
    store_url: str, instance: DagsterInstance, run: DagsterRun
) -> None:
    instance.report_engine_event("x" * event_log._CHARACTERS, run)
    assert len(stored(store_url, run)) == 1


def test_time_alone_writes_events(store_url: str, instance: DagsterInstance) -> None:
    run = instance.create_run_for_job(nothing)
    report(instance, run, 1)
    assert wait_until(lambda: stored(store_url, run)) == ["1"]


def test_a_reader_in_the_same_process_finds_every_event(
    instance: DagsterInstance, run: DagsterRun
) -> None:
    report(instance, run, 1, 2, 3)
    assert [entry.message for entry in instance.all_logs(run.run_id)] == ["1", "2", "3"]


def test_another_instance_in_the_same_process_shares_the_order(
    store_url: str, instance: DagsterInstance, run: DagsterRun
) -> None:
    report(instance, run, 1)
    with DagsterInstance.get() as other:
        report(other, run, 2)
        report_status(other, run, DagsterEventType.RUN_FAILURE)
    assert stored(store_url, run) == ["1", "2", DagsterEventType.RUN_FAILURE.value]


def materialize(instance: DagsterInstance, run: DagsterRun) -> None:
    event = DagsterEvent(
        DagsterEventType.ASSET_MATERIALIZATION.value,
        job_name=run.job_name,
        message="made",
        event_specific_data=StepMaterializationData(
            AssetMaterialization("thing", tags={"colour": "red"})
        ),
    )
    instance.report_dagster_event(event, run.run_id)


def test_a_materialization_is_written_at_once_after_the_events_before_it(
    store_url: str, instance: DagsterInstance, run: DagsterRun
) -> None:
    report(instance, run, 1)
    materialize(instance, run)
    assert stored(store_url, run) == ["1", "made"]


def test_a_materialization_is_known_as_the_latest_of_its_asset(
    instance: DagsterInstance, run: DagsterRun
) -> None:
    materialize(instance, run)
    latest = instance.get_latest_materialization_event(AssetKey("thing"))
    assert latest is not None
    assert latest.run_id == run.run_id


def test_an_observation_is_written_at_once(
    store_url: str, instance: DagsterInstance, run: DagsterRun
) -> None:
    event = DagsterEvent(
        DagsterEventType.ASSET_OBSERVATION.value,
        job_name=run.job_name,
        message="seen",
        event_specific_data=AssetObservationData(AssetObservation("thing")),
    )
    instance.report_dagster_event(event, run.run_id)
    assert stored(store_url, run) == ["seen"]


def test_events_of_many_threads_stay_in_the_order_of_each(
    store_url: str, instance: DagsterInstance
) -> None:
    run = instance.create_run_for_job(nothing)
    threads = [
        threading.Thread(target=report, args=(instance, run, *range(start, start + 300)))
        for start in (0, 1000, 2000, 3000)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    report_status(instance, run, DagsterEventType.RUN_SUCCESS)
    numbers = [int(message) for message in stored(store_url, run)[:-1]]
    for start in (0, 1000, 2000, 3000):
        own = [number for number in numbers if start <= number < start + 1000]
        assert own == list(range(start, start + 300))


def test_a_live_view_sees_every_event_in_order(store_url: str, instance: DagsterInstance) -> None:
    run = instance.create_run_for_job(nothing)
    seen: list[str] = []

    def see(entry: EventLogEntry, _cursor: str) -> None:
        seen.append(entry.message)

    storage = PostgresEventLogStorage(store_url, should_autocreate_tables=False)
    storage.watch(run.run_id, None, see)
    try:
        report(instance, run, *range(250))
        wait_until(lambda: len(seen) >= 250)
    finally:
        storage.end_watch(run.run_id, see)
        storage.dispose()
    assert seen == [str(number) for number in range(250)]


@pytest.mark.usefixtures("impatient")
def test_events_are_kept_while_the_database_is_away(
    store_url: str, instance: DagsterInstance
) -> None:
    run = instance.create_run_for_job(nothing)
    with database_away(store_url):
        report(instance, run, *range(150))
    wait_until(lambda: len(stored(store_url, run)) >= 150)
    assert stored(store_url, run) == [str(number) for number in range(150)]


@pytest.mark.usefixtures("impatient")
def test_an_event_of_a_runs_status_raises_while_the_database_is_away_and_loses_no_other(
    store_url: str, instance: DagsterInstance, run: DagsterRun
) -> None:
    report(instance, run, 1)
    with (
        database_away(store_url),
        pytest.raises((DagsterPostgresException, OperationalError)),
    ):
        report_status(instance, run, DagsterEventType.RUN_SUCCESS)
    report(instance, run, 2)
    event_log.flush()
    assert stored(store_url, run) == ["1", "2"]


def test_an_event_of_a_runs_status_survives_the_loss_of_its_connection(
    store_url: str, instance: DagsterInstance, run: DagsterRun
) -> None:
    report_status(instance, run, DagsterEventType.RUN_START)
    report(instance, run, 1)
    with database_away(store_url):
        pass
    report_status(instance, run, DagsterEventType.RUN_SUCCESS)
    messages = [DagsterEventType.RUN_START.value, "1", DagsterEventType.RUN_SUCCESS.value]
    assert stored(store_url, run) == messages


@pytest.mark.usefixtures("impatient")
def test_too_many_events_raise_while_the_database_is_away(
    server: str,
    store_url: str,
    instance: DagsterInstance,
    run: DagsterRun,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(event_log, "_KEPT_CHARACTERS", 10)
    with (
        database_away(store_url),
        pytest.raises((DagsterPostgresException, OperationalError)),
    ):
        report(instance, run, 1, 2, 3)
    event_log.flush()
    assert stored(store_url, run) == ["1", "2"][: len(stored(store_url, run))]


def test_what_was_written_when_the_connection_was_lost_is_not_written_twice(
    store_url: str, instance: DagsterInstance, run: DagsterRun
) -> None:
    report(instance, run, 1, 2)
    with losing_a_connection(instance):
        event_log.flush()
    report(instance, run, 3)
    event_log.flush()
    assert stored(store_url, run) == ["1", "2", "3"]


def test_an_event_of_a_runs_status_is_not_written_twice_either(
    store_url: str, instance: DagsterInstance, run: DagsterRun
) -> None:
    report(instance, run, 1)
    with losing_a_connection(instance):
        report_status(instance, run, DagsterEventType.RUN_SUCCESS)
    assert stored(store_url, run) == ["1", DagsterEventType.RUN_SUCCESS.value]


def test_an_event_that_the_database_refuses_holds_up_no_other(
    store_url: str, instance: DagsterInstance, run: DagsterRun, caplog: pytest.LogCaptureFixture
) -> None:
    report(instance, run, 1)
    instance.report_engine_event("refused", run, step_key="a\0b")
    report(instance, run, 2)
    event_log.flush()
    assert stored(store_url, run) == ["1", "2"]
    assert f"an event of run {run.run_id} is not stored" in caplog.text


def test_a_forked_process_writes_nothing_of_its_parents(
    store_url: str, instance: DagsterInstance, run: DagsterRun
) -> None:
    report(instance, run, 1)
    child = os.fork()
    if child == 0:
        event_log.flush()
        os._exit(0)
    os.waitpid(child, 0)
    assert stored(store_url, run) == []
    event_log.flush()
    assert stored(store_url, run) == ["1"]


_REPORTS_UNTIL_KILLED = """
import sys
from dagster import DagsterInstance
from runyard.dagster_adapter.event_log import batching
from runyard.dagster_adapter.internals import pooled_instance

with pooled_instance() as instance, batching(instance):
    run = instance.get_run_by_id(sys.argv[1])
    for number in range(1_000_000):
        instance.report_engine_event(str(number), run)
        print(number, flush=True)
"""


def test_a_killed_process_loses_the_last_events_alone_and_the_reaper_ends_the_log(
    store_url: str, instance: DagsterInstance, run: DagsterRun
) -> None:
    script = [sys.executable, "-c", _REPORTS_UNTIL_KILLED, run.run_id]
    with subprocess.Popen(script, stdout=subprocess.PIPE, cwd=ROOT) as process:
        wait_until(lambda: len(stored(store_url, run)) > 300)
        process.send_signal(signal.SIGKILL)
        assert process.stdout is not None
        reported = [line.decode().strip() for line in process.stdout if line.endswith(b"\n")]
    reaper.fail_run(instance, run.run_id, "The worker was lost.")
    *kept, last = stored(store_url, run)
    assert last == "The worker was lost."
    assert kept == [str(number) for number in range(len(kept))]
    assert len(reported) - len(kept) <= event_log._ROWS


def test_a_log_without_batches_is_written_event_by_event(store_url: str) -> None:
    with DagsterInstance.get() as plain:
        run = plain.create_run_for_job(nothing)
        report(plain, run, 1)
        assert stored(store_url, run) == ["1"]


def test_a_project_with_the_former_configuration_has_dagsters_own_log(
    store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dagster.yaml").write_text(
        "storage:\n  postgres:\n    postgres_url:\n      env: DATABASE_URL\n"
        "    should_autocreate_tables: false\n"
    )
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with pooled_instance() as plain, batching(plain):
        run = plain.create_run_for_job(nothing)
        report(plain, run, 1)
        assert stored(store_url, run) == ["1"]
