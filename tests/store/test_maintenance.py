"""The maintenance services: what each does, and who runs them when."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import psycopg
import pytest
from dagster import DagsterInstance, build_sensor_context
from dagster._core.scheduler.instigation import InstigatorType, TickData, TickStatus

from runyard import send
from runyard.dagster_adapter import builtin, maintenance
from runyard.dagster_adapter.maintenance import Service, ServiceSchedule, services_of_the_daemon
from runyard.dagster_adapter.tick_retention import TickRetention
from runyard.engine import batch_claims, batch_leases, settlement, tallies, wait_registration
from runyard.engine.due import seconds_until_due
from runyard.engine.settlement import Outcome
from runyard.errors import DatabaseUnavailable
from runyard.functions.flow_control import Flow, Timeouts
from runyard.functions.registry import Function
from runyard.processes.maintenance_thread import MaintenanceThread
from runyard.store import database
from tests.conftest import Publish, wait_until
from tests.tables import empty_tables, rows

SESSIONS = "SELECT pid FROM pg_stat_activity WHERE application_name = 'runyard maintenance'"
HOLDER = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid = 8290 AND objid = 2"


@pytest.fixture
def instance(store_url: str) -> Iterator[DagsterInstance]:
    """The Dagster instance of the project, in the database of these tests."""
    with DagsterInstance.get() as made:
        yield made


@pytest.fixture(autouse=True)
def all_due(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the services of this process's ticks be due."""
    monkeypatch.setattr(maintenance, "_schedule", ServiceSchedule(maintenance.SERVICES))


@contextmanager
def serving(
    instance: DagsterInstance, schedule: ServiceSchedule | None = None
) -> Iterator[MaintenanceThread]:
    """Run the daemon's thread."""
    thread = MaintenanceThread(instance, schedule)
    thread.start()
    try:
        yield thread
    finally:
        thread.stop(10)


def run(name: str, instance: DagsterInstance) -> list[str]:
    """Run one service; return what it says that it did."""
    services = [service for service in services_of_the_daemon() if service.name == name]
    assert len(services) == 1
    return ServiceSchedule(services).run_due(lambda: instance)


def service(name: str, act: Callable[[], int], *, on_events: bool = False) -> Service:
    """A service that comes round once in an hour."""
    return Service(name, "done", lambda _: act(), lambda: 3600.0, on_events)


def begun(function: Function, worker: str = "gone:1:2") -> str:
    """Send an event, and have a process begin it; the batch's id."""
    send("greet/requested")
    [claim] = batch_claims.claim(function) or []
    batch_leases.set_worker_name(worker)
    assert batch_leases.begin(claim.batch_id, f"run-{claim.batch_id}") is not None
    return claim.batch_id


def waiting(function: Function, event: str) -> None:
    """Have an invocation of a function wait for an event."""
    batch = begun(function)
    request = {"invocation": 1, "kind": "event", "event": event, "seconds": 3600}
    wait_registration.register_waits(batch, f"run-{batch}", "wait", [request])
    outcome = Outcome(1, "waiting", suspended=("wait",))
    settlement.settle(batch, f"run-{batch}", [outcome])


def statuses() -> list[str]:
    return [row["status"] for row in rows("SELECT status FROM runyard.invocations ORDER BY id")]


def age(column: str) -> None:
    rows(f"UPDATE runyard.batches SET {column} = now() - interval '1 hour' RETURNING id")


def test_match_waits_ends_a_wait_with_the_event_that_it_is_for(
    function: Function, instance: DagsterInstance
) -> None:
    waiting(function, "answer/given")
    send("answer/given")
    assert run("match_waits", instance) == ["match_waits: waits ended by events: 1"]
    assert (seconds_until_due(function) or 0) <= 0


def test_reclaim_unlaunched_takes_back_a_claim_that_nobody_launched(
    function: Function, instance: DagsterInstance
) -> None:
    send("greet/requested")
    assert batch_claims.claim(function)
    assert run("reclaim_unlaunched", instance) == []
    age("claimed_at")
    assert run("reclaim_unlaunched", instance) == [
        "reclaim_unlaunched: claims without a run looked at: 1"
    ]
    assert statuses() == ["queued"]


def test_release_overdue_releases_the_batch_of_a_silent_worker(
    function: Function, instance: DagsterInstance
) -> None:
    begun(function)
    assert run("release_overdue", instance) == []
    age("heartbeat_at")
    assert run("release_overdue", instance) == [
        "release_overdue: batches of lost workers released: 1"
    ]
    assert statuses() == ["queued"]


def test_end_runs_ends_the_run_of_a_batch_whose_process_is_gone(
    function: Function, instance: DagsterInstance
) -> None:
    batch = begun(function)
    settlement.settle(batch, f"run-{batch}", [Outcome(1, "succeeded")])
    assert run("end_runs", instance) == []
    age("finished_at")
    assert run("end_runs", instance) == ["end_runs: runs without a process ended: 1"]
    assert batch_leases.unended() == []


def test_cancel_timed_out_cancels_what_did_not_begin_in_time(
    function: Function, instance: DagsterInstance, publish_functions: Publish
) -> None:
    publish_functions(replace(function, flow=Flow(timeouts=Timeouts(start=60))))
    send("greet/requested")
    assert run("cancel_timed_out", instance) == []
    rows("UPDATE runyard.invocations SET expires_at = now() RETURNING id")
    assert run("cancel_timed_out", instance) == [
        "cancel_timed_out: invocations cancelled past their timeout: 1"
    ]
    assert statuses() == ["cancelled"]


def test_apply_deferred_requests_cancels_what_sql_could_not_cancel_in_its_commit(
    function: Function, instance: DagsterInstance
) -> None:
    send("greet/requested")
    with database.transaction() as connection:
        connection.execute(
            "INSERT INTO runyard.requests (invocation, action, deferred) VALUES (1, 'cancel', true)"
        )
    assert run("apply_deferred_requests", instance) == [
        "apply_deferred_requests: requests of SQL applied: 1"
    ]
    assert statuses() == ["cancelled"]


def test_catch_up_starts_a_restored_function_for_an_event_that_was_committed_late(
    function: Function, instance: DagsterInstance, store_url: str, publish_functions: Publish
) -> None:
    publish_functions(replace(function, name="other"))
    with psycopg.connect(store_url) as sender:
        sender.execute("SELECT runyard.send('greet/requested')")
        publish_functions(function)
        sender.commit()
    assert batch_claims.claim(function) == []
    assert run("catch_up", instance) == [
        "catch_up: restored functions whose missed events were looked for: 1"
    ]
    assert [claim.size for claim in batch_claims.claim(function) or []] == [1]


def test_rekey_gives_invocations_the_keys_of_the_present_flow_control(
    function: Function, instance: DagsterInstance
) -> None:
    send("greet/requested")
    rows("UPDATE runyard.invocations SET keys = '{old}', generation = generation - 1 RETURNING id")
    assert run("rekey", instance) == [
        "rekey: invocations given the keys of the present flow control: 1"
    ]
    assert [claim.size for claim in batch_claims.claim(function) or []] == [1]


def test_purge_deletes_the_state_of_keys_that_have_been_quiet_for_an_hour(
    function: Function, instance: DagsterInstance
) -> None:
    empty_tables("runyard.flow_control_state")
    rows(
        "INSERT INTO runyard.flow_control_state (function, kind, key, until)"
        " SELECT 'greet', 'throttle', age, now() - age::interval"
        " FROM unnest(ARRAY['2 hours', '2 minutes']) AS age RETURNING key"
    )
    assert run("purge", instance) == ["purge: rows of ended flow control and waits deleted: 1"]
    assert rows("SELECT key FROM runyard.flow_control_state") == [{"key": "2 minutes"}]


def test_fold_tallies_adds_what_was_tallied_to_the_counters(
    function: Function, instance: DagsterInstance
) -> None:
    send("greet/requested")
    before = tallies.totals()
    assert run("fold_tallies", instance) == []
    assert rows("SELECT FROM runyard.tallies") == []
    assert tallies.totals() == before


def test_purge_run_output_deletes_what_runs_printed_longer_ago_than_events_are_kept(
    instance: DagsterInstance,
) -> None:
    empty_tables("runyard.run_output")
    rows(
        "INSERT INTO runyard.run_output (key, stream, start, content, saved_at)"
        " SELECT age, 'out', 0, '', now() - age::interval"
        " FROM unnest(ARRAY['31 days', '2 days']) AS age RETURNING key"
    )
    assert run("purge_run_output", instance) == [
        "purge_run_output: pieces of the output of old runs deleted: 1"
    ]
    assert rows("SELECT key FROM runyard.run_output") == [{"key": "2 days"}]


def ticked(
    instance: DagsterInstance,
    status: TickStatus,
    days: float,
    kind: InstigatorType = InstigatorType.SENSOR,
    sensor: str = "a",
) -> None:
    """Let an instigator have had a tick so many days ago, or have one now."""
    instance.create_tick(
        TickData(
            instigator_origin_id=sensor,
            instigator_name=sensor,
            instigator_type=kind,
            status=status,
            timestamp=time.time() - days * 86400,
            run_ids=[],
            run_keys=[],
            selector_id=sensor,
        )
    )


def ticks() -> list[tuple[str, str, int]]:
    found = rows(
        "SELECT type, status, extract(day FROM now() AT TIME ZONE 'UTC' - timestamp)::int AS days"
        " FROM public.job_ticks ORDER BY id"
    )
    return [(row["type"], row["status"], row["days"]) for row in found]


def test_purge_ticks_deletes_the_ticks_of_all_sensors_by_the_settings_of_dagster(
    instance: DagsterInstance,
) -> None:
    empty_tables("public.job_ticks")
    for sensor in ("a", "b"):
        for days in (20, 2, 0):
            ticked(instance, TickStatus.SKIPPED, days, sensor=sensor)
            ticked(instance, TickStatus.SUCCESS, days, sensor=sensor)
    ticked(instance, TickStatus.SKIPPED, 20, InstigatorType.SCHEDULE)
    ticked(instance, TickStatus.STARTED, 20)
    assert run("purge_ticks", instance) == ["purge_ticks: ticks of sensors deleted: 6"]
    kept = [("SENSOR", "SUCCESS", 2), ("SENSOR", "SKIPPED", 0), ("SENSOR", "SUCCESS", 0)]
    assert ticks() == [*kept, *kept, ("SCHEDULE", "SKIPPED", 20), ("SENSOR", "STARTED", 20)]


def test_a_purge_of_ticks_continues_where_the_last_one_stopped(instance: DagsterInstance) -> None:
    empty_tables("public.job_ticks")
    retention = TickRetention()
    ticked(instance, TickStatus.SUCCESS, 2)
    ticked(instance, TickStatus.SKIPPED, 2)
    ticked(instance, TickStatus.SKIPPED, 0)
    assert retention.purge(instance) == 1
    rows("UPDATE public.job_ticks SET timestamp = timestamp - interval '2 days' RETURNING id")
    assert retention.purge(instance) == 1
    assert ticks() == [("SENSOR", "SUCCESS", 4)]


@pytest.mark.parametrize("name", [service.name for service in services_of_the_daemon()])
def test_every_service_has_a_test_that_is_named_after_it(name: str) -> None:
    assert [test for test in globals() if test.startswith(f"test_{name}_")]


def test_an_error_of_a_service_leaves_the_others_running_and_is_logged_once(
    caplog: pytest.LogCaptureFixture, instance: DagsterInstance
) -> None:
    ran: list[str] = []

    def breaks() -> int:
        ran.append("breaks")
        raise psycopg.errors.UndefinedTable("no such table")

    def works() -> int:
        ran.append("works")
        return 0

    schedule = ServiceSchedule(
        [service("breaks", breaks, on_events=True), service("works", works, on_events=True)]
    )
    for _ in range(3):
        schedule.run_due(lambda: instance, events=True)
    assert ran == ["breaks", "works"] * 3
    assert [record.getMessage() for record in caplog.records] == [
        "breaks failed: UndefinedTable (no such table); trying again"
    ]


def test_without_a_database_the_services_stay_due(instance: DagsterInstance) -> None:
    away = [True]
    ran: list[str] = []

    def asks() -> int:
        if away:
            raise DatabaseUnavailable("no database")
        return 0

    def runs() -> int:
        ran.append("ran")
        return 0

    schedule = ServiceSchedule([service("asks", asks), service("runs", runs)])
    schedule.run_due(lambda: instance)
    assert ran == []
    away.clear()
    schedule.run_due(lambda: instance)
    assert ran == ["ran"]


def test_a_service_is_due_at_its_interval(instance: DagsterInstance) -> None:
    now = [100.0]
    ran: list[float] = []

    def runs() -> int:
        ran.append(now[0])
        return 0

    schedule = ServiceSchedule([service("runs", runs)], lambda: now[0])
    for now[0] in (100.0, 101.0, 3699.0, 3701.0):
        schedule.run_due(lambda: instance)
    assert ran == [100.0, 3701.0]
    assert schedule.seconds_until_due() == 3600.0


def test_what_a_service_did_is_logged(
    caplog: pytest.LogCaptureFixture, instance: DagsterInstance
) -> None:
    caplog.set_level(logging.INFO, "runyard.maintenance")
    ServiceSchedule([service("counts", lambda: 3), service("idles", lambda: 0)]).run_due(
        lambda: instance
    )
    assert [record.getMessage() for record in caplog.records] == ["counts: done: 3"]


def test_the_thread_matches_an_event_with_a_wait_long_before_the_next_interval(
    function: Function, instance: DagsterInstance
) -> None:
    waiting(function, "answer/given")
    hourly = [
        replace(each, seconds=lambda: 3600.0)
        for each in maintenance.SERVICES
        if each.name == "match_waits"
    ]
    with serving(instance, ServiceSchedule(hourly)):
        wait_until(lambda: rows(HOLDER))
        send("answer/given")
        wait_until(lambda: (seconds_until_due(function) or 1) <= 0, 5)


def test_one_thread_at_a_time_has_the_lock_and_another_takes_over(
    instance: DagsterInstance,
) -> None:
    ran: list[str] = []

    def noting(name: str) -> ServiceSchedule:
        def note() -> int:
            ran.append(name)
            return 0

        return ServiceSchedule([service("notes", note)])

    with serving(instance, noting("first")) as first:
        wait_until(lambda: ran == ["first"])
        with serving(instance, noting("second")):
            wait_until(lambda: len(rows(SESSIONS)) == 2)
            assert len(rows(HOLDER)) == 1
            assert ran == ["first"]
            first.stop(10)
            wait_until(lambda: ran == ["first", "second"], 10)


def test_a_thread_whose_connection_is_lost_takes_the_lock_again(instance: DagsterInstance) -> None:
    with serving(instance):
        [lost] = wait_until(lambda: rows(HOLDER))
        rows("SELECT pg_terminate_backend(%s)", lost["pid"])
        wait_until(lambda: rows(HOLDER) not in ([], [lost]), 10)


def test_the_end_of_the_thread_waits_for_no_interval(instance: DagsterInstance) -> None:
    with serving(instance, ServiceSchedule([service("idles", lambda: 0)])) as thread:
        wait_until(lambda: rows(HOLDER))
        thread.stop(60)
        wait_until(lambda: not rows(HOLDER))


def _evaluated(instance: DagsterInstance) -> str:
    [sensor] = [each for each in builtin.sensors if each.name == "runyard_maintenance"]
    with build_sensor_context(instance) as context:
        data = sensor.evaluate_tick(context)
    assert data.skip_message is not None
    return data.skip_message


def test_the_sensor_of_stock_dagster_does_what_is_due_and_says_so(
    function: Function, instance: DagsterInstance
) -> None:
    begun(function)
    age("heartbeat_at")
    assert _evaluated(instance) == "release_overdue: batches of lost workers released: 1"
    assert _evaluated(instance) == "nothing was to be done"
    assert rows(HOLDER) == []


def test_the_sensor_leaves_the_maintenance_to_the_daemon_that_has_the_lock(
    function: Function, instance: DagsterInstance
) -> None:
    with serving(instance, ServiceSchedule([service("idles", lambda: 0)])):
        wait_until(lambda: rows(HOLDER))
        begun(function)
        age("heartbeat_at")
        assert _evaluated(instance) == "nothing was to be done"
    assert statuses() == ["running"]
