"""The runs that have failed and are of no function: those of schedules, assets and plain jobs."""

from collections import deque
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
from sqlalchemy.exc import SQLAlchemyError

from runyard.dagster_adapter.run_errors import run_error
from runyard.dagster_adapter.tags import BATCH, FUNCTION
from runyard.engine.failures import described

_PAGE = 200
_MOST_PAGES = 5
# How many looks back. They are five seconds apart, or a minute after an alert.
_LOOKS = 6


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


class FailedRuns:
    """Reads the failures in Dagster's log for one receiver, each of them once.

    Each look reads the log from the number where the last one ended. A failure with a lower number
    may be committed later, so every look also reads again what the last few have read.

    Attributes
    ----------
    last
        The number of the last failure that has been read.
    """

    def __init__(self) -> None:
        self.last = 0
        self._begun_at: deque[int] = deque(maxlen=_LOOKS)
        self._passed: set[int] = set()
        self._latest: list[int] = []

    def read(self, instance: DagsterInstance, after: int) -> list[FailedJob]:
        """The jobs with failures after a number, and with those that were committed late."""
        self.last = after
        self._begun_at.append(after)
        late = [
            record
            for record in _failures(instance, min(self._begun_at), after)
            if record.storage_id not in self._passed
        ]
        records = [*late, *_failures(instance, after, None)]
        self._latest = [record.storage_id for record in records]
        self.last = max([after, *self._latest])
        return _jobs(instance, records)

    def pass_over(self) -> None:
        """Do not return again what was read last."""
        self._passed.update(self._latest)
        self._passed = {number for number in self._passed if number > min(self._begun_at)}


def _failures(instance: DagsterInstance, after: int, last: int | None) -> list[EventLogRecord]:
    """The failures after a number, up to another one; of many the first."""
    records: list[EventLogRecord] = []
    for _ in range(_MOST_PAGES):
        if last is not None and after >= last:
            break
        page = instance.fetch_run_status_changes(
            RunStatusChangeRecordsFilter(
                event_type=DagsterEventType.RUN_FAILURE,
                after_storage_id=after,
                before_storage_id=None if last is None else last + 1,
            ),
            limit=_PAGE,
            ascending=True,
        ).records
        if not page:
            break
        records += page
        after = page[-1].storage_id
    return records


def _jobs(instance: DagsterInstance, records: Sequence[EventLogRecord]) -> list[FailedJob]:
    runs: dict[str, DagsterRun] = {}
    for start in range(0, len(records), _PAGE):
        runs |= _runs(instance, records[start : start + _PAGE])
    failures: dict[str, list[tuple[EventLogRecord, DagsterRun]]] = {}
    for record in records:
        run = runs.get(record.event_log_entry.run_id)
        if run is not None:
            failures.setdefault(run.job_name, []).append((record, run))
    return [_failed(instance, name, each) for name, each in failures.items()]


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
    return FailedJob(name, len(failures), since, _error(instance, run), run.run_id)


def _error(instance: DagsterInstance, run: DagsterRun) -> str:
    """The error of a run in a line. One that cannot be read must not hold back the alert."""
    try:
        return described(run_error(instance, run))
    except SQLAlchemyError:
        raise
    except Exception as error:
        return f"its log cannot be read ({type(error).__name__})"
