"""What `runyard.dagster_adapter.internals` stands on, checked against the installed Dagster: an upgrade that breaks it fails here."""

import inspect
import warnings
from pathlib import Path
from typing import Any

import dagster
import pytest
from dagster import DagsterEventType, DagsterInstance, RunRequest, job, op
from dagster._core.execution import context_creation_job
from dagster._core.execution.plan.state import KnownExecutionState
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorTick,
    InstigatorType,
    SensorInstigatorData,
    TickData,
    TickStatus,
)
from dagster._core.workspace import context as workspace_context
from dagster._daemon import sensor as sensor_loop
from dagster._daemon.controller import daemon_controller_from_instance
from dagster._daemon.daemon import SensorDaemon
from dagster_celery.launcher import CeleryRunLauncher
from dagster_postgres import PostgresEventLogStorage, PostgresRunStorage, PostgresScheduleStorage

from runyard import BatchIOManager
from runyard.dagster_adapter import internals
from runyard.dagster_adapter.broker import QUEUE, make_app
from runyard.dagster_adapter.launcher import WarmRunLauncher


def parameters(of: object) -> list[str]:
    return list(inspect.signature(of).parameters)  # type: ignore[arg-type]


def test_the_version_is_the_one_that_was_read() -> None:
    assert dagster.__version__ == internals.READ_IN


def test_the_sensor_loop_can_be_driven_and_its_interval_replaced() -> None:
    assert parameters(sensor_loop.execute_sensor_iteration)[:5] == [
        "workspace_process_context",
        "logger",
        "threadpool_executor",
        "submit_threadpool_executor",
        "sensor_tick_futures",
    ]
    assert parameters(sensor_loop.is_under_min_interval) in (
        ["state", "remote_sensor", "minimum_allowed_min_interval"],
    )
    assert "is_under_min_interval(" in inspect.getsource(sensor_loop.execute_sensor_iteration)
    assert parameters(SensorDaemon.core_loop) == [
        "self",
        "workspace_process_context",
        "shutdown_event",
    ]
    assert "gen_daemons" in parameters(daemon_controller_from_instance)


def _left(instance: DagsterInstance, name: str, **more: Any) -> InstigatorTick:
    """A tick of a sensor that a daemon has begun, and not ended."""
    location = RegisteredCodeLocationOrigin("here")
    origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(location, "all"), name)
    selector_id = origin.get_selector().get_id()
    instance.add_instigator_state(
        InstigatorState(
            origin,
            InstigatorType.SENSOR,
            InstigatorStatus.RUNNING,
            SensorInstigatorData(min_interval=1),
        )
    )
    data = TickData(
        origin.get_id(),
        name,
        InstigatorType.SENSOR,
        TickStatus.STARTED,
        timestamp=1.0,
        selector_id=selector_id,
        **more,
    )
    return instance.create_tick(data)


def _status(instance: DagsterInstance, tick: InstigatorTick) -> TickStatus:
    [found] = instance.get_ticks(
        tick.tick_data.instigator_origin_id, tick.tick_data.selector_id, limit=1
    )
    return found.status


def test_ticks_that_were_left_waiting_are_ended_before_the_sensor_loop_warns_of_them(
    tmp_path: Path,
) -> None:
    assert "Moving dangling STARTED tick" in inspect.getsource(sensor_loop._get_evaluation_tick)
    with DagsterInstance.local_temp(str(tmp_path)) as instance:
        waiting = _left(instance, "waiting")
        requesting = _left(
            instance,
            "requesting",
            run_requests=[RunRequest(run_key="a")],
            reserved_run_ids=["run-1"],
        )
        assert internals.end_stale_ticks(instance) == 1
        assert _status(instance, waiting) == TickStatus.SKIPPED
        assert _status(instance, requesting) == TickStatus.STARTED
        assert internals.end_stale_ticks(instance) == 0


def test_console_loggers_are_looked_up_where_they_are_replaced() -> None:
    assert "default_system_loggers(" in inspect.getsource(context_creation_job.create_log_manager)


def test_a_launch_goes_through_the_method_that_is_overridden() -> None:
    assert parameters(CeleryRunLauncher._launch_celery_task_run) == [
        "self",
        "run",
        "task_signature",
        "routing_key",
    ]
    assert "_launch_celery_task_run(" in inspect.getsource(CeleryRunLauncher.launch_run)


def test_launcher_and_workers_declare_one_queue() -> None:
    launching = WarmRunLauncher().celery.amqp.queues[QUEUE]
    working = make_app().amqp.queues[QUEUE]
    assert launching.as_dict() == working.as_dict()
    assert (working.exchange.type, working.routing_key) == ("direct", QUEUE)


@pytest.mark.parametrize(
    "storage", [PostgresRunStorage, PostgresEventLogStorage, PostgresScheduleStorage]
)
def test_a_storage_keeps_its_engine_where_it_is_replaced(storage: type) -> None:
    source = inspect.getsource(storage.optimize_for_webserver)  # type: ignore[attr-defined]
    assert "self._engine = create_pg_engine(" in source
    assert source.count("self.") == source.count("self._engine") + source.count(
        "self.postgres_url"
    ) + source.count("self._token_provider"), "it does more than that"


def test_from_failure_takes_steps_with_a_failure_event_though_they_ended_well() -> None:
    @op
    def early() -> int:
        return 1

    @op
    def late(context: dagster.OpExecutionContext, n: int) -> int:
        internals.report_step_failures(context, {"early": "an invocation failed"})
        raise RuntimeError("red")

    @job
    def red() -> None:
        late(early())

    with DagsterInstance.ephemeral() as instance:
        run_id = red.execute_in_process(instance=instance, raise_on_error=False).run_id
        run = instance.get_run_by_id(run_id)
        assert run is not None
        steps, _ = KnownExecutionState.build_resume_retry_reexecution(instance, run)
        successes = {
            record.step_key
            for record in instance.all_logs(run_id)
            if record.dagster_event
            and record.dagster_event.event_type == DagsterEventType.STEP_SUCCESS
        }
    assert set(steps) == {"early", "late"}
    assert successes == {"early"}


def test_a_job_without_an_io_manager_is_told_from_one_with_its_own() -> None:
    @op
    def nothing() -> int:
        return 1

    @job
    def empty() -> None:
        nothing()

    def resolved(**resources: object) -> dagster.JobDefinition:
        return (
            dagster.Definitions(jobs=[empty], resources=resources)
            .get_repository_def()
            .get_job("empty")
        )

    assert internals.has_stock_io_manager(resolved())
    assert not internals.has_stock_io_manager(resolved(io_manager=BatchIOManager()))


def test_only_the_warning_that_the_code_server_is_away_is_silenced() -> None:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        internals.silence_restarts()
        warnings.warn(
            "Error loading repository location code:dagster._core.errors.DagsterUserCodeUnreachableError: Could not reach it\n\nStack Trace:",
            stacklevel=1,
        )
        warnings.warn("Error loading repository location code:ImportError: no module", stacklevel=1)
    assert [str(one.message) for one in heard] == [
        "Error loading repository location code:ImportError: no module"
    ]


def test_a_location_that_cannot_be_loaded_is_told_by_the_warning_that_is_silenced() -> None:
    assert "Error loading repository location {" in inspect.getsource(workspace_context)
