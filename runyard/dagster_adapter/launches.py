"""Writes the runs that function sensors launch, in the transaction that claims their batches.

Dagster's sensor daemon creates one run after the other, in about twenty statements and commits, and
asks the code server twice for each. Here a job's snapshot and execution plan are asked for once per
code version (see `prepared_jobs`); then the runs of a tick, their tags, the first event of their
logs and the tick itself are a few statements. The rows are those that Dagster writes.

Runs that need more than that (jobs that materialize assets, other run launchers, a queue of runs in
Dagster, no living worker) are created and submitted by Dagster itself.
"""

import time
from collections.abc import Sequence

from dagster import (
    DagsterEvent,
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    EventLogEntry,
)
from dagster_celery.tags import DAGSTER_CELERY_TASK_ID_TAG

from runyard.dagster_adapter.internals import (
    RUN_KEY_TAG,
    TICK_ID_TAG,
    LoadedSensor,
    new_run_id,
    plans_assets,
    prepare_run,
    run_options,
    serialize_value,
    tick_body,
)
from runyard.dagster_adapter.tags import BATCH, CONTINUES, EVENT, FUNCTION
from runyard.engine.batch_claims import Claim
from runyard.store.queries import Connection, fetch_all, fetch_one


class JobRuns:
    """The runs of one job in one version of the code, launched by one sensor.

    Attributes
    ----------
    sensor
        The sensor.
    is_plain
        Whether they can be added without Dagster: no asset is materialized.
    """

    def __init__(self, instance: DagsterInstance, sensor: LoadedSensor, job: str) -> None:
        self._instance = instance
        self.sensor = sensor
        self._options = run_options(instance, sensor, job)
        self.is_plain = not plans_assets(self._options)
        self._template = prepare_run(instance, self._options, new_run_id())

    def add(
        self, connection: Connection, function: str, claims: Sequence[Claim]
    ) -> list[DagsterRun]:
        """Add a starting run for each claim, and the tick that launches them."""
        now = time.time()
        runs = [
            self._template._replace(
                run_id=run_id,
                status=DagsterRunStatus.STARTING,
                tags={**self._template.tags, **tags, DAGSTER_CELERY_TASK_ID_TAG: run_id},
            )
            for run_id, tags in self._tick(connection, now, function, claims)
        ]
        tags = [
            (run.run_id, key, value)
            for run in runs
            for key, value in run.tags_for_storage().items()
        ]
        fetch_all(
            connection,
            "add_runs",
            at=now,
            run_ids=[run.run_id for run in runs],
            snapshots=[run.job_snapshot_id for run in runs],
            jobs=[run.job_name for run in runs],
            bodies=[serialize_value(run) for run in runs],
            tagged=[run_id for run_id, _, _ in tags],
            keys=[key for _, key, _ in tags],
            values=[value for _, _, value in tags],
            events=[serialize_value(_starting(run, now)) for run in runs],
        )
        return runs

    def create(
        self, connection: Connection, function: str, claims: Sequence[Claim]
    ) -> list[DagsterRun]:
        """Let Dagster create a run for each claim, not started yet, and add their tick."""
        options = self._options
        return [
            self._instance.create_run(
                **{**options, "run_id": run_id, "tags": {**options["tags"], **tags}}
            )
            for run_id, tags in self._tick(connection, time.time(), function, claims)
        ]

    def _tick(
        self, connection: Connection, now: float, function: str, claims: Sequence[Claim]
    ) -> list[tuple[str, dict[str, str]]]:
        """Add a tick that launches a run for each claim; returns their ids and tags."""
        run_ids = [new_run_id() for _ in claims]
        row = fetch_one(
            connection,
            "add_tick",
            origin=self.sensor.origin_id,
            selector=self.sensor.selector_id,
            at=now,
            status="SUCCESS",
            body=tick_body(self.sensor, now, run_ids, [claim.batch_id for claim in claims]),
        )
        assert row is not None
        return [
            (run_id, {**run_tags(function, claim), TICK_ID_TAG: str(row["id"])})
            for run_id, claim in zip(run_ids, claims, strict=True)
        ]


def run_tags(function: str, claim: Claim) -> dict[str, str]:
    """The tags that link the run of a claim to its function, batch and event."""
    tags = {FUNCTION: function, BATCH: claim.batch_id, RUN_KEY_TAG: claim.batch_id}
    if claim.event_id is not None:
        tags[EVENT] = claim.event_id
    if claim.previous_run is not None:
        tags[CONTINUES] = claim.previous_run
    return tags


def _starting(run: DagsterRun, at: float) -> EventLogEntry:
    event = DagsterEvent(
        event_type_value=DagsterEventType.PIPELINE_STARTING.value, job_name=run.job_name
    )
    return EventLogEntry(
        user_message="",
        level=20,
        job_name=run.job_name,
        run_id=run.run_id,
        error_info=None,
        timestamp=at,
        dagster_event=event,
    )
