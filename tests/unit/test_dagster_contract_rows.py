"""The runs and ticks that the daemon writes are those that Dagster itself would write, by row."""

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, cast

import pytest
from dagster import DagsterEvent, DagsterEventType, DagsterInstance, DagsterRun
from dagster._core.scheduler.instigation import InstigatorType, TickData, TickStatus
from dagster_celery.tags import DAGSTER_CELERY_TASK_ID_TAG
from dagster_shared.error import SerializableErrorInfo

from runyard.dagster_adapter.failed_ticks import FailedTicks
from runyard.dagster_adapter.internals import (
    TICK_ID_TAG,
    LoadedSensor,
    function_sensors,
    new_run_id,
    run_options,
)
from runyard.dagster_adapter.launches import JobRuns
from runyard.engine.batch_claims import Claim
from runyard.store import database
from tests.code_server import loaded_code
from tests.conftest import use_database

CLAIMS = [Claim(f"batch-{n}", 1, f"event-{n}", None) for n in range(2)]
TIMES = {"create_timestamp", "update_timestamp", "timestamp"}

Written = tuple[DagsterInstance, LoadedSensor, list[DagsterRun]]


@pytest.fixture(scope="module")
def written(server: str) -> Iterator[Written]:
    """The sensor of a job, and the runs that were added for two claims of its function."""
    use_database(server, "launches")
    with loaded_code("benchmarks.functions") as context:
        instance = context.instance
        [sensor] = [each for each in function_sensors(context) if "bench_single" in each.functions]
        job = JobRuns(instance, sensor, "bench_single")
        with database.transaction() as connection:
            runs = job.add(connection, "bench_single", CLAIMS)
        yield instance, sensor, runs


def created_by_dagster(written: Written) -> tuple[DagsterRun, DagsterRun]:
    """Our first run, and one that Dagster created and announced with the same tags."""
    instance, sensor, [ours, *_] = written
    run_id = new_run_id()
    options = run_options(instance, sensor, "bench_single")
    tags = {**ours.tags, DAGSTER_CELERY_TASK_ID_TAG: run_id}
    theirs = instance.create_run(**{**options, "run_id": run_id, "tags": tags})
    instance.report_dagster_event(
        DagsterEvent(DagsterEventType.PIPELINE_STARTING.value, theirs.job_name), run_id
    )
    return ours, theirs


def rows(table: str, column: str, value: str) -> list[dict[str, Any]]:
    """The rows of a table without what differs between any two: their times and ids."""
    with database.connection() as connection:
        found = connection.execute(
            f"SELECT * FROM {table} WHERE {column} = %s ORDER BY 1".encode(), (value,)
        ).fetchall()
    return [
        {key: without(value, field) for key, field in row.items() if key not in {"id", *TIMES}}
        for row in found
    ]


def without(run_id: str, field: object) -> object:
    return field.replace(run_id, "ID") if isinstance(field, str) and len(run_id) > 9 else field


def without_time(row: dict[str, Any]) -> dict[str, Any]:
    event = json.loads(row["event"])
    return {**row, "event": {**event, "timestamp": 0}}


def test_a_run_is_the_row_that_dagster_writes(written: Written) -> None:
    ours, theirs = created_by_dagster(written)
    assert rows("runs", "run_id", ours.run_id) == rows("runs", "run_id", theirs.run_id)


def test_the_tags_of_a_run_are_the_rows_that_dagster_writes(written: Written) -> None:
    def tags(run: DagsterRun) -> list[tuple[str, str]]:
        return sorted((row["key"], row["value"]) for row in rows("run_tags", "run_id", run.run_id))

    ours, theirs = created_by_dagster(written)
    assert tags(ours) == tags(theirs)


def test_the_log_of_a_run_begins_with_the_row_that_dagster_writes(written: Written) -> None:
    ours, theirs = created_by_dagster(written)
    assert [without_time(row) for row in rows("event_logs", "run_id", ours.run_id)] == [
        without_time(row) for row in rows("event_logs", "run_id", theirs.run_id)
    ]


@pytest.mark.parametrize("table", ["runs", "event_logs"])
def test_the_times_of_a_row_are_in_utc_as_those_of_dagster(written: Written, table: str) -> None:
    ours, theirs = created_by_dagster(written)
    apart = [abs(a - b) for a, b in zip(times(table, ours), times(table, theirs), strict=True)]
    assert max(apart) < timedelta(minutes=10)


def times(table: str, run: DagsterRun) -> list[datetime]:
    with database.connection() as connection:
        row = connection.execute(
            f"SELECT * FROM {table} WHERE run_id = %s".encode(), (run.run_id,)
        ).fetchone()
    assert row is not None
    return [cast(datetime, row[column]) for column in sorted(TIMES & row.keys())]


def test_a_tick_is_the_row_that_dagster_writes(written: Written) -> None:
    instance, sensor, runs = written
    ours = runs[0].tags[TICK_ID_TAG]
    [tick] = instance.get_ticks(sensor.origin_id, sensor.selector_id, limit=1)
    theirs = instance.create_tick(
        TickData(
            sensor.origin_id,
            sensor.name,
            InstigatorType.SENSOR,
            TickStatus.SUCCESS,
            tick.timestamp,
            run_ids=[run.run_id for run in runs],
            run_keys=[claim.batch_id for claim in CLAIMS],
            selector_id=sensor.selector_id,
            end_timestamp=tick.end_timestamp,
        )
    )
    assert rows("job_ticks", "id", ours) == rows("job_ticks", "id", str(theirs.tick_id))


def test_a_failed_tick_is_the_row_that_dagster_writes(written: Written) -> None:
    instance, sensor, _ = written
    FailedTicks().show(sensor, LookupError("no job"))
    [tick] = instance.get_ticks(
        sensor.origin_id, sensor.selector_id, limit=1, statuses=[TickStatus.FAILURE]
    )
    theirs = instance.create_tick(
        TickData(
            sensor.origin_id,
            sensor.name,
            InstigatorType.SENSOR,
            TickStatus.FAILURE,
            tick.timestamp,
            error=SerializableErrorInfo("LookupError: no job", [], "LookupError"),
            selector_id=sensor.selector_id,
            end_timestamp=tick.end_timestamp,
        )
    )
    ours = str(tick.tick_id)
    assert rows("job_ticks", "id", ours) == rows("job_ticks", "id", str(theirs.tick_id))


def test_dagster_reads_the_runs_back(written: Written) -> None:
    instance, _, runs = written
    assert [instance.get_run_by_id(run.run_id) for run in runs] == runs
