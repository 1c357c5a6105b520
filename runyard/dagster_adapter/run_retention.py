"""How long Dagster's own runs are kept, and which of them got stuck."""

from datetime import timedelta

from dagster import DagsterInstance, DagsterRunStatus, RunsFilter

from runyard import clock
from runyard.engine.retention import Say, Swept
from runyard.settings import settings
from runyard.syntax.retention_policy import Retention

_ENDED = [DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED]


def sweep_runs(
    instance: DagsterInstance,
    *,
    dry_run: bool = False,
    say: Say = lambda _: None,
    retention: Retention | None = None,
) -> Swept:
    """Delete Dagster's own runs that ended before the general time, with their event logs, or only count them."""
    before, swept = (
        (retention or Retention.parse(settings().retention)).before(clock.now()),
        Swept(),
    )
    if before is None:
        return swept
    wanted = RunsFilter(statuses=_ENDED, created_before=before)
    if dry_run:
        swept.add("runs", instance.get_runs_count(wanted))
        return swept
    while records := instance.get_run_records(wanted, limit=200, ascending=True):
        for record in records:
            instance.delete_run(record.dagster_run.run_id)
        swept.add("runs", len(records))
        say(f"{swept.rows['runs']} runs so far")
    return swept


def stuck_runs(instance: DagsterInstance) -> list[str]:
    """Dagster's runs that began more than a day ago and have not ended."""
    begun = [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]
    return [
        run.run_id
        for run in instance.get_runs(
            RunsFilter(statuses=begun, created_before=clock.now() - timedelta(days=1)), limit=100
        )
    ]
