"""The runs that have failed and are of no function: those of schedules, assets and plain jobs."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from dagster import (
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    EventLogRecord,
    RunsFilter,
    RunStatusChangeRecordsFilter,
)

from runyard.dagster_adapter.run_errors import run_error
from runyard.dagster_adapter.tags import BATCH, FUNCTION
from runyard.engine.failures import described

_PAGE = 200
_MOST_PAGES = 5


@dataclass(frozen=True)
class FailedJob:
    """A job whose runs have failed: how many, since when, and the first of them with its error."""

    name: str
    count: int
    since: datetime
    error: str
    run_id: str


def last_failure(instance: DagsterInstance) -> int:
    """The number of the latest failure in Dagster's log; 0 if there is none."""
    latest = instance.fetch_run_status_changes(DagsterEventType.RUN_FAILURE, limit=1)
    return max((record.storage_id for record in latest.records), default=0)


def failed_jobs(instance: DagsterInstance, after: int) -> tuple[list[FailedJob], int]:
    """The jobs with failures after one in Dagster's log, and the number of the last one read."""
    failures: dict[str, list[tuple[EventLogRecord, DagsterRun]]] = {}
    for _ in range(_MOST_PAGES):
        page = instance.fetch_run_status_changes(
            RunStatusChangeRecordsFilter(
                event_type=DagsterEventType.RUN_FAILURE, after_storage_id=after
            ),
            limit=_PAGE,
            ascending=True,
        ).records
        if not page:
            break
        runs = _runs(instance, page)
        for record in page:
            run = runs.get(record.event_log_entry.run_id)
            if run is not None:
                failures.setdefault(run.job_name, []).append((record, run))
        after = page[-1].storage_id
    return [_failed(instance, name, each) for name, each in failures.items()], after


def _runs(instance: DagsterInstance, page: Sequence[EventLogRecord]) -> dict[str, DagsterRun]:
    """The runs of these failures by id, without those of functions and deleted ones."""
    ids = sorted({record.event_log_entry.run_id for record in page})
    return {
        run.run_id: run
        for run in instance.get_runs(RunsFilter(run_ids=ids))
        if BATCH not in run.tags and FUNCTION not in run.tags
    }


def _failed(
    instance: DagsterInstance, name: str, failures: Sequence[tuple[EventLogRecord, DagsterRun]]
) -> FailedJob:
    record, run = failures[0]
    since = datetime.fromtimestamp(record.event_log_entry.timestamp, UTC)
    return FailedJob(name, len(failures), since, described(run_error(instance, run)), run.run_id)
