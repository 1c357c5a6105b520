"""Jobs are prepared before their first event, and a code server that hangs holds up no other."""

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from dagster import DagsterInstance, DagsterRun

from runyard import send
from runyard.dagster_adapter.internals import (
    LoadedSensor,
    WorkspaceProcessContext,
    function_sensors,
)
from runyard.dagster_adapter.prepared_jobs import PreparedJobs
from runyard.dagster_adapter.sensor_loop import SensorLoop
from runyard.functions.registry import Function
from runyard.store import database
from runyard.store.queries import fetch_all, statements
from tests.code_server import Server, hung, served_code
from tests.conftest import Publish, wait_until
from tests.tables import rows

FUNCTIONS = [
    Function("bench_batched", "bench_batched", ("bench/batched",), max_batch=2),
    Function("bench_single", "bench_single", ("bench/single",), max_batch=1),
]
WORKER = (
    "INSERT INTO runyard.workers (name, host, pid, slots, pid_namespace)"
    " VALUES ('here:1', 'here', 1, 4, 'none') RETURNING name"
)
# gRPC waits at least this long for an answer.
GRPC_SECONDS = 15.0

Served = tuple[Server, WorkspaceProcessContext]


@pytest.fixture(scope="module")
def served(store_url: str) -> Iterator[Served]:
    """A code server, and the code that the daemon has loaded from it."""
    with served_code("benchmarks.functions") as server_and_context:
        yield server_and_context


@pytest.fixture
def instance(served: Served) -> DagsterInstance:
    """The Dagster instance, without runs."""
    _, context = served
    for run in context.instance.get_runs():
        context.instance.delete_run(run.run_id)
    return context.instance


@pytest.fixture
def loop(
    empty: None, served: Served, instance: DagsterInstance, publish_functions: Publish
) -> SensorLoop:
    """A loop that has prepared the job `bench_batched` for a run."""
    publish_functions(*FUNCTIONS)
    rows(WORKER)
    _, context = served
    loop = SensorLoop(context)
    send("bench/batched", {"n": 0})
    loop.evaluate_due()
    return loop


def sensors_of(served: Served) -> list[LoadedSensor]:
    _, context = served
    return list(function_sensors(context))


def launched(instance: DagsterInstance) -> list[str]:
    """The jobs of all runs, oldest first."""
    runs: list[DagsterRun] = list(reversed(instance.get_runs()))
    return [run.job_name for run in runs]


def test_every_job_is_prepared_while_the_loop_is_idle(
    served: Served, instance: DagsterInstance
) -> None:
    sensors = sensors_of(served)
    prepared = PreparedJobs(instance)
    prepared.load(sensors)
    with prepared.while_idle():
        wait_until(
            lambda: all(prepared.is_known(each, job) for each in sensors for job in each.jobs)
        )


@pytest.fixture
def single(served: Served) -> LoadedSensor:
    """The sensor of a function that no event has asked for yet."""
    [single] = [each for each in sensors_of(served) if "bench_single" in each.functions]
    return single


@pytest.fixture
def prepared(instance: DagsterInstance, single: LoadedSensor) -> PreparedJobs:
    """Prepared jobs, once an event has asked for that of `single`."""
    prepared = PreparedJobs(instance)
    prepared.load([single])
    wait_until(lambda: prepared.get(single, "bench_single"))
    return prepared


def test_a_job_that_an_event_asks_for_is_prepared_at_once(
    prepared: PreparedJobs, single: LoadedSensor
) -> None:
    assert prepared.is_known(single, "bench_single")


def test_no_job_is_known_in_another_version_of_the_code(
    prepared: PreparedJobs, single: LoadedSensor
) -> None:
    prepared.load([replace(single, location=object())])
    assert not prepared.is_known(single, "bench_single")


def test_a_job_stays_known_when_other_code_is_loaded_anew(
    served: Served, instance: DagsterInstance
) -> None:
    [single] = [each for each in sensors_of(served) if "bench_single" in each.functions]
    prepared = PreparedJobs(instance)
    prepared.load([single])
    wait_until(lambda: prepared.get(single, "bench_single"))
    prepared.load([single, replace(single, name="another", location=object())])
    assert prepared.is_known(single, "bench_single")


def test_what_was_launched_most_recently_is_prepared_first() -> None:
    rows(
        "INSERT INTO job_ticks (job_origin_id, selector_id, status, type, timestamp, tick_body)"
        " SELECT 'origin', selector, 'SUCCESS', 'SENSOR', now() - make_interval(hours => age), ''"
        " FROM (VALUES ('older', 3), ('newer', 5), ('newer', 1)) AS ticks (selector, age)"
        " RETURNING id"
    )
    with database.connection() as connection:
        ordered = fetch_all(
            connection, "latest_launches_first", selectors=["never", "older", "newer"]
        )
    assert [row["selector_id"] for row in ordered] == ["newer", "older", "never"]


def test_the_last_launches_are_found_by_an_index() -> None:
    with database.connection() as connection, connection.transaction(force_rollback=True):
        connection.execute(
            "INSERT INTO job_ticks (job_origin_id, selector_id, status, type, timestamp, tick_body)"
            " SELECT 'origin', 'selector' || n % 100, 'SUCCESS', 'SENSOR', now(), ''"
            " FROM generate_series(1, 20000) AS n"
        )
        connection.execute("ANALYZE job_ticks")
        plan = connection.execute(
            b"EXPLAIN (FORMAT JSON) " + statements()["latest_launches_first"],
            {"selectors": ["selector1", "selector2"]},
        ).fetchone()
    assert "Seq Scan" not in str(plan)


def test_a_code_server_that_hangs_holds_up_no_function_whose_job_is_prepared(
    served: Served, instance: DagsterInstance, loop: SensorLoop
) -> None:
    server, _ = served
    with hung(server):
        send("bench/single", {"n": 1})
        send("bench/batched", {"n": 1})
        began = time.monotonic()
        loop.evaluate_due()
        took = time.monotonic() - began
        assert launched(instance) == ["bench_batched", "bench_batched"]
    assert took < GRPC_SECONDS


def test_a_function_is_launched_once_its_code_server_answers_again(
    served: Served, instance: DagsterInstance, loop: SensorLoop
) -> None:
    server, _ = served
    with hung(server):
        send("bench/single", {"n": 1})
        loop.evaluate_due()

    def launches() -> bool:
        loop.evaluate_due()
        return "bench_single" in launched(instance)

    wait_until(launches)
