"""The run launcher of `dagster.yaml`: dagster-celery's, with a cancel that ends as CANCELED.

When no warm worker is alive (as under stock `dagster dev`), a run gets a process of its own, which
takes longer to start.
"""

import warnings
from typing import Any, Self, cast

from celery.exceptions import DuplicateTaskNameWarning
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, DefaultRunLauncher
from dagster_celery.config import TASK_EXECUTE_JOB_NAME
from dagster_celery.launcher import CeleryRunLauncher
from dagster_celery.tags import DAGSTER_CELERY_TASK_ID_TAG
from typing_extensions import override

from runyard.dagster_adapter import reaper
from runyard.dagster_adapter.broker import (
    QUEUE,
    REMOTE_QUEUE,
    broker_url,
    celery_settings,
    launcher_options,
    queue,
)
from runyard.dagster_adapter.internals import (
    GRPC_INFO_TAG,
    CheckRunHealthResult,
    ConfigurableClassData,
    ExecuteRunArgs,
    LaunchRunContext,
    WorkerStatus,
    pack_value,
)
from runyard.dagster_adapter.tags import APP, BATCH
from runyard.engine import batch_leases
from runyard.engine.batch_claims import ANSWER_SECONDS, capacities
from runyard.store import database

# A connection may have been lost since the last run, as by a restart of the broker.
_RETRY_ONCE = {"max_retries": 1, "interval_start": 0.0}


class WarmRunLauncher(CeleryRunLauncher):
    """Sends runs to the warm workers through the broker; takes no settings in `dagster.yaml`."""

    # The batch of a run is marked as launched before or soon after the broker has the run.
    marks_launches = True

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(
            default_queue=QUEUE,
            broker=broker_url(),
            backend="disabled://",
            config_source=celery_settings(),
            inst_data=inst_data,
        )
        # Declare the queue as the workers do; dagster-celery's own declaration binds it to an
        # exchange that they do not know.
        self.celery.conf.update(
            task_queues=[queue(), queue(REMOTE_QUEUE)],
            task_routes={},
            broker_transport_options=launcher_options(),
            broker_connection_timeout=ANSWER_SECONDS,
        )
        self._cold = DefaultRunLauncher()

    @override
    def register_instance(self, instance: DagsterInstance) -> None:
        super().register_instance(instance)
        self._cold.register_instance(instance)

    @override
    def launch_run(self, context: LaunchRunContext) -> None:
        """Send the run to the workers; when none is alive, start a process for it.

        A run whose batch was given to another run meanwhile is cancelled. A run that cannot be
        launched releases its batch at once, and raises.
        """
        run = context.dagster_run
        batch_id = run.tags.get(BATCH) if run.parent_run_id is None else None
        try:
            if batch_id is not None and not batch_leases.mark_launching(batch_id):
                self._instance.report_run_canceled(
                    run,
                    f"Batch {batch_id} was released before this run was launched;"
                    " another run has its events.",
                )
                return
            self._launch(context)
        except Exception as error:
            if batch_id is not None:
                reaper.launch_failed(batch_id, error)
            raise

    def hand_over(self, run: DagsterRun) -> None:
        """Send a run that is recorded as starting to the workers; its task has the run's id.

        Raises an error of the broker, within seconds also when it does not answer.
        """
        args = ExecuteRunArgs(
            job_origin=cast(Any, run.job_code_origin),
            run_id=run.run_id,
            instance_ref=self._instance.get_ref(),
            set_exit_code_on_failure=True,
        )
        self.celery.send_task(
            TASK_EXECUTE_JOB_NAME,
            kwargs={"execute_job_args_packed": pack_value(args)},
            task_id=run.run_id,
            queue=queue_of(run),
            retry_policy=_RETRY_ONCE,
            confirm_timeout=ANSWER_SECONDS,
        )

    def _launch(self, context: LaunchRunContext) -> None:
        if context.workspace is not None and not _workers_alive(context.dagster_run):
            self._cold.launch_run(context)
            return
        with warnings.catch_warnings():
            # The base class declares its task again for every run.
            warnings.simplefilter("ignore", DuplicateTaskNameWarning)
            super().launch_run(context)

    @override
    def _launch_celery_task_run(
        self, run: DagsterRun, task_signature: Any, routing_key: str
    ) -> None:
        result = task_signature.apply_async(queue=queue_of(run))
        self._instance.add_run_tags(run.run_id, {DAGSTER_CELERY_TASK_ID_TAG: result.task_id})

    @override
    def terminate(self, run_id: str) -> bool:
        """Cancel a run.

        The worker's heartbeat interrupts a run in progress; a run that is still waiting ends here.
        """
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        if GRPC_INFO_TAG in run.tags:  # it has a process of its own
            batch_leases.request_cancel(run.tags.get(BATCH), run_id)
            return bool(self._cold.terminate(run_id))
        self._instance.report_run_canceling(run)
        batch = batch_leases.request_cancel(run.tags.get(BATCH), run_id)
        if batch is None or batch["status"] == "claimed":
            self._instance.report_run_canceled(run, "Cancelled before a worker started it.")
            if batch is not None:
                reaper.release_batch(self._instance, batch, run, force=True)
        return True

    @property
    @override
    def supports_check_run_worker_health(self) -> bool:
        return True

    @override
    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether the worker of a run still renews its lease."""
        batch = batch_leases.batch_of_run(run.run_id)
        if batch is not None and batch["status"] == "lost":
            return CheckRunHealthResult(WorkerStatus.FAILED, "The worker was lost.")
        return CheckRunHealthResult(
            WorkerStatus.RUNNING if run.status == DagsterRunStatus.STARTED else WorkerStatus.UNKNOWN
        )

    @classmethod
    @override
    def config_type(cls) -> Any:
        return {}

    @classmethod
    @override
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Any) -> Self:
        return cls(inst_data=inst_data)


def queue_of(run: DagsterRun) -> str:
    """The queue of a run: functions of applications have one of their own."""
    return REMOTE_QUEUE if APP in run.tags else QUEUE


def _workers_alive(run: DagsterRun) -> bool:
    with database.connection() as connection:
        return capacities(connection).of(APP in run.tags).slots > 0
