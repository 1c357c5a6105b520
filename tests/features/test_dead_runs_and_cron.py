"""Runs that end outside of their ops, cron schedules, and jobs that are rejected."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from dagster import (
    DagsterInstance,
    DagsterRun,
    Definitions,
    build_run_status_sensor_context,
    job,
    op,
)
from dagster._utils.schedules import schedule_execution_time_iterator

from runyard import Batch, Cron, clock, on_event, receive, settle
from runyard.dagster_adapter import builtin
from runyard.dagster_adapter.schedules import send_scheduled
from runyard.dagster_adapter.sensors import check_io_managers
from runyard.dagster_adapter.tags import BATCH
from runyard.engine import batch_leases, housekeeping
from runyard.errors import InvalidOption
from runyard.store import database
from runyard.testing import Yard
from tests.features import functions


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    """An instance whose runs no worker executes."""
    with DagsterInstance.ephemeral() as instance:
        yield instance


def _dead_run(
    instance: DagsterInstance, batch: str, end: Callable[[DagsterInstance, DagsterRun], Any]
) -> DagsterRun:
    job = functions.defs.get_job_def("plain")
    run = instance.create_run_for_job(job, tags={BATCH: batch})
    end(instance, run)
    ended = instance.get_run_by_id(run.run_id)
    assert ended is not None
    assert ended.is_finished
    return ended


@pytest.mark.parametrize(
    ("end", "sensor", "status"),
    [
        (
            lambda instance, run: instance.report_run_failed(run, "the code does not load"),
            builtin.sensors[0],
            "queued",
        ),
        (
            lambda instance, run: instance.report_run_canceled(run, "terminated"),
            builtin.sensors[1],
            "cancelled",
        ),
    ],
)
@pytest.mark.parametrize("begun", [False, True])
def test_the_invocations_of_a_dead_run_are_settled_by_the_sensors(
    yard: Yard, instance: DagsterInstance, end: Any, sensor: Any, status: str, begun: bool
) -> None:
    sent = yard.send("plain/go")
    [batch] = yard.claim("plain")
    run = _dead_run(instance, batch, end)
    if begun:
        assert batch_leases.begin(batch, run.run_id) is not None
    event = next(
        record.event_log_entry.dagster_event
        for record in instance.get_records_for_run(run.run_id).records
        if record.event_log_entry.dagster_event
    )
    context = build_run_status_sensor_context(
        sensor_name=sensor.name, dagster_instance=instance, dagster_run=run, dagster_event=event
    )
    assert "were settled" in sensor(context).skip_message
    assert (sent.invocation.status, sent.invocation.attempt) == (status, int(begun))
    assert "nothing was left" in sensor(context).skip_message
    if status == "queued":
        yard.advance("1m")
        assert sent.invocation.status == "succeeded"


@pytest.mark.parametrize(
    ("catch_up", "late", "says", "sent"),
    [
        ("last", "1m", "sent", 1),
        ("none", "1h", "not caught up", 0),
        ("none", "1m", "sent", 1),
        ("last", "1h", "sent", 1),
        ("last", "3d", "a later time stands for it", 0),
        ("all", "3d", "sent", 1),
    ],
)
def test_a_missed_tick_is_caught_up_as_the_schedule_says(
    yard: Yard, catch_up: Any, late: str, says: str, sent: int
) -> None:
    at = datetime(2026, 3, 1, 1, tzinfo=UTC)
    clock.freeze(at)
    yard.advance(late)
    cron = Cron("0 2 * * *", timezone="Europe/Zurich", catch_up=catch_up)
    assert says in send_scheduled("nightly", cron, cron.schedule, at)
    assert len(yard.sent("runyard/function.scheduled")) == sent


@pytest.mark.parametrize(
    "schedule",
    ["*/30 * * * *", "*/15 * * * *", "30 * * * *", "30 2 * * *", "0 2 * * *; 30 2 * * *"],
)
def test_only_the_last_missed_tick_is_caught_up_when_clocks_go_back(
    yard: Yard, schedule: str
) -> None:
    cron = Cron(schedule, timezone="Europe/Zurich", catch_up="last")
    began, now = (
        datetime(2026, 10, 24, 23, 50, tzinfo=UTC),
        datetime(2026, 10, 25, 1, 50, tzinfo=UTC),
    )
    clock.freeze(now)
    yard.advance(0)
    for part in cron.parts:
        for at in schedule_execution_time_iterator(began.timestamp(), part, cron.timezone):
            if at.timestamp() > now.timestamp():
                break
            send_scheduled("nightly", cron, part, at)
    assert len(yard.sent("runyard/function.scheduled")) == 1


def test_a_tick_that_dagster_repeats_starts_nothing_twice(yard: Yard) -> None:
    at = yard.now
    for _ in range(2):
        send_scheduled("nightly", Cron("0 2 * * *"), "0 2 * * *", at)
    yard.work()
    assert [each.status for each in yard.invocations("nightly")] == ["succeeded"]


def test_with_jitter_a_scheduled_invocation_begins_later(yard: Yard) -> None:
    cron = Cron("0 2 * * *", jitter="1h")
    at = yard.now
    for _ in range(2):
        send_scheduled("nightly", cron, cron.schedule, at)
    yard.work()
    [made] = yard.invocations("nightly")
    assert made.status == "queued"
    assert timedelta(0) < made.due - at < timedelta(hours=1)
    yard.advance("1h")
    assert made.status == "succeeded"


def test_more_than_an_hour_of_jitter_is_refused() -> None:
    with pytest.raises(InvalidOption, match=r"Cron\(jitter=...\)"):
        Cron("0 2 * * *", jitter="2h")


def test_a_time_is_skipped_or_queued_while_an_earlier_one_is_open(yard: Yard) -> None:
    for function in ("nightly", "queueing"):
        for minute in range(2):
            send_scheduled(
                function, Cron("* * * * *"), "* * * * *", yard.now - timedelta(minutes=minute)
            )
    [first] = yard.claim("nightly")
    [second] = yard.claim("queueing")
    assert sorted(each.status for each in yard.invocations("nightly")) == ["claimed", "skipped"]
    assert sorted(each.status for each in yard.invocations("queueing")) == ["claimed", "queued"]
    yard.execute("nightly", first)
    yard.execute("queueing", second)
    yard.work()
    assert [each.status for each in yard.invocations("queueing")] == ["succeeded", "succeeded"]


def test_a_function_has_its_schedule_too() -> None:
    [schedule] = functions.nightly.schedules
    assert (schedule.cron_schedule, schedule.execution_timezone, schedule.job_name) == (
        "0 2 * * *",
        "Europe/Zurich",
        "nightly",
    )


def test_rows_that_flow_control_and_waits_no_longer_need_are_purged(yard: Yard) -> None:
    yard.send("rated/go", {"user": 1})
    yard.send("sleeper/go", {"nap": 60})
    yard.advance("1m")
    yard.advance("3h")
    housekeeping.purge()
    with database.connection() as connection:
        for table in ("flow_control_state", "waits"):
            query = f"SELECT count(*) AS n FROM runyard.{table}".encode()
            assert connection.execute(query).fetchall() == [{"n": 0}]


@op
def pass_on(batch: Batch) -> Batch:
    """Return the batch unchanged."""
    return batch


def test_a_job_without_settle_is_rejected_when_the_code_loads() -> None:
    @job
    def endless() -> None:
        pass_on(receive())

    with pytest.raises(InvalidOption, match="in the job endless, there is no settle"):
        on_event("endless/go", job=endless)


def test_a_job_without_receive_is_rejected_as_a_failure_callback() -> None:
    @job
    def whole() -> None:
        settle(pass_on(receive()))

    @job
    def empty() -> None:
        @op
        def nothing() -> int:
            return 1

        nothing()

    with pytest.raises(InvalidOption, match="in the job empty, there is no receive"):
        on_event("whole/go", job=whole, on_failure=empty)


def test_functions_without_an_io_manager_for_batches_are_rejected() -> None:
    with pytest.raises(InvalidOption, match="has no IO manager for batches"):
        check_io_managers(Definitions(jobs=functions.long_jobs).get_repository_def())


def test_a_function_with_a_schedule_alone_is_run_as_by_its_schedule(yard: Yard) -> None:
    invocation = yard.run("nightly", {"at": "2026-03-01T02:00:00+01:00"})
    assert invocation.status == "succeeded"
