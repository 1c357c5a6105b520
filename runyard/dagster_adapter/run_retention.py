"""Retention of Dagster's own runs, and runs that are stuck."""

from datetime import timedelta

from dagster import DagsterInstance, DagsterRunStatus, RunsFilter

from runyard import clock
from runyard.engine import run_output
from runyard.engine.retention import Say, Swept
from runyard.settings import settings
from runyard.syntax.retention_policy import Retention

_ENDED = [DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED]
_STARTED = [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]
_CHUNK = 200


def sweep_runs(
    instance: DagsterInstance,
    *,
    dry_run: bool = False,
    say: Say = lambda _: None,
    retention: Retention | None = None,
) -> Swept:
    """Delete Dagster's own runs that are past the general retention.

    Their event logs, and what they have printed, go with them.

    With `dry_run` they are only counted.
    """
    swept = Swept()
    before = (retention or Retention.parse(settings().retention)).before(clock.now())
    if before is None:
        return swept
    expired = RunsFilter(statuses=_ENDED, created_before=before)
    if dry_run:
        swept.add("runs", instance.get_runs_count(expired))
        return swept
    while records := instance.get_run_records(expired, limit=_CHUNK, ascending=True):
        for record in records:
            instance.delete_run(record.dagster_run.run_id)
        run_output.delete_below([[record.dagster_run.run_id] for record in records])
        swept.add("runs", len(records))
        say(f"{swept.rows['runs']} runs so far")
    return swept


def stuck_runs(instance: DagsterInstance) -> list[str]:
    """Dagster's runs that started more than a day ago and have not ended."""
    stuck = RunsFilter(statuses=_STARTED, created_before=clock.now() - timedelta(days=1))
    return [run.run_id for run in instance.get_runs(stuck, limit=100)]
