"""The loop of the functions' sensors in the daemon: no sensor is evaluated before something is due.

It waits for a notification of the database or for the next due time, then evaluates what is due:
the function with the oldest due invocation first, so that no function waits for the others. A tick
claims, writes its runs in the same transaction, hands them to the broker and returns. Nothing is
written while nothing happens, and no thread waits in a tick.

Under stock `dagster dev` the sensors are evaluated by Dagster's own daemon: see `sensors`.
"""

import logging
import time
from collections.abc import Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from dagster import DagsterError, DagsterInstance, DagsterRun

from runyard.dagster_adapter import reaper
from runyard.dagster_adapter.internals import (
    DagsterUserCodeUnreachableError,
    IWorkspaceProcessContext,
    LoadedSensor,
    function_sensors,
    loaded_version,
    report_launch_failure,
)
from runyard.dagster_adapter.launcher import WarmRunLauncher
from runyard.dagster_adapter.launches import JobRuns
from runyard.dagster_adapter.tags import BATCH
from runyard.engine import batch_claims
from runyard.engine.backoff import Backoff
from runyard.engine.due import Due, due_functions, seconds_until_due
from runyard.engine.listener import listener
from runyard.settings import settings
from runyard.store import database
from runyard.store.queries import fetch_all, fetch_one

LONGEST_WAIT = 5.0
_SHORTEST_WAIT = 0.005
_UNREACHABLE_WAIT = 1.0
_log = logging.getLogger("runyard.sensors")


@dataclass(frozen=True)
class Room:
    """How many runs may be launched now, whether a worker is alive, and which sensors are off."""

    runs: int
    has_workers: bool
    stopped: frozenset[str]


class SensorLoop:
    """Evaluates the sensors of functions in the code that the daemon has loaded."""

    def __init__(self, context: IWorkspaceProcessContext[Any]) -> None:
        self._context = context
        self._instance: DagsterInstance = context.instance
        self._version: Hashable = None
        self._sensors: dict[str, LoadedSensor] = {}
        self._jobs: dict[tuple[str, str], JobRuns] = {}
        # Functions that are due although a claim found nothing: not before this time, unless woken.
        self._not_before: dict[str, float] = {}
        self._unreachable = Backoff(_log, "the code server is unreachable", LONGEST_WAIT)

    def run(self) -> None:
        """Evaluate sensors until the process ends. No error ends the loop."""
        backoff = Backoff(_log, "no function is started", LONGEST_WAIT)
        with listener.subscribe() as woken:
            while True:
                woken.clear()
                try:
                    wait = self.evaluate_due()
                except Exception as error:
                    wait = backoff.failed(error)
                else:
                    backoff.succeeded()
                if woken.wait(wait):
                    self._not_before.clear()

    def evaluate_due(self) -> float:
        """Evaluate the sensors of all functions that are due, as far as there is room for runs.

        Returns
        -------
        How many seconds to wait for the next one, unless a notification comes.
        """
        wait, room = LONGEST_WAIT, _room()
        if room.runs <= 0:
            return wait
        self._load_sensors()
        ready: list[tuple[float, Due, LoadedSensor]] = []
        for due in due_functions():
            sensor = self._sensors.get(due.name)
            if due.seconds is None or sensor is None or not _is_on(sensor, room):
                continue
            held = self._not_before.get(due.name, 0.0) - time.monotonic()
            seconds = max(due.seconds, held)
            if seconds <= 0:
                ready.append((due.seconds, due, sensor))
            else:
                wait = min(wait, seconds)
        oldest_first = sorted(ready, key=lambda each: each[0])
        if self._evaluate([(due, sensor) for _, due, sensor in oldest_first], room):
            return 0.0  # there may be more, of these functions too
        return max(_SHORTEST_WAIT, wait)

    def _load_sensors(self) -> None:
        """Take over the sensors of code that has been loaded anew."""
        version = loaded_version(self._context)
        if version != self._version:
            self._sensors = {
                name: sensor
                for sensor in function_sensors(self._context)
                for name in sensor.functions
            }
            self._jobs = {}
            self._version = version

    def _evaluate(self, ready: Sequence[tuple[Due, LoadedSensor]], room: Room) -> int:
        """Let sensors tick one after the other while there is room; returns how many runs."""
        left = room.runs
        for due, sensor in ready:
            if left <= 0:
                break
            try:
                left -= self._tick(due, sensor, left if len(ready) == 1 else 1, room)
            except DagsterUserCodeUnreachableError as error:
                self._unreachable.failed(error)
                self._not_before[due.name] = time.monotonic() + _UNREACHABLE_WAIT
        return room.runs - left

    def _tick(self, due: Due, sensor: LoadedSensor, most: int, room: Room) -> int:
        """Claim for one function and launch the runs; returns how many."""
        try:
            job = self._job_runs(sensor, due.job)
        except DagsterUserCodeUnreachableError:
            raise
        except DagsterError as error:
            return self._refuse(due, error)
        launcher = self._instance.run_launcher
        if room.has_workers and job.is_plain and isinstance(launcher, WarmRunLauncher):
            return self._launch(due, job, launcher, most)
        return self._submit(due, job, most)

    def _launch(self, due: Due, job: JobRuns, launcher: WarmRunLauncher, most: int) -> int:
        """Claim and add the runs in one transaction, then hand them to the broker."""
        with database.transaction() as connection:
            claims = batch_claims.claim_some(connection, due, most)
            runs = job.add(connection, due.name, claims) if claims else []
        handed_over = [run.tags[BATCH] for run in runs if self._hand_over(launcher, run)]
        if handed_over:
            with database.connection() as connection:
                fetch_all(connection, "mark_handed_over", batches=handed_over)
        return len(runs) or self._found_nothing(due)

    def _hand_over(self, launcher: WarmRunLauncher, run: DagsterRun) -> bool:
        """Give a run to the broker; returns whether it took it. If not, the batch is released."""
        try:
            launcher.hand_over(run)
        except Exception as error:
            reaper.launch_failed(run.tags[BATCH], error)
            report_launch_failure(self._instance, run, error)
            return False
        return True

    def _submit(self, due: Due, job: JobRuns, most: int) -> int:
        """Claim, then let Dagster create and submit the runs."""
        with database.connection() as connection:
            claims = batch_claims.claim_some(connection, due, most)
            runs = job.create(connection, due.name, claims) if claims else []
        for run in runs:
            with suppress(
                Exception
            ):  # Dagster has recorded it; the launcher has released the batch
                self._instance.submit_run(run.run_id, self._context.create_request_context())
        return len(runs) or self._found_nothing(due)

    def _found_nothing(self, due: Due) -> int:
        """Leave a function alone whose claim found nothing, until its next due time."""
        seconds = seconds_until_due(due)
        wait = LONGEST_WAIT if seconds is None else max(_SHORTEST_WAIT, seconds)
        self._not_before[due.name] = time.monotonic() + wait
        return 0

    def _refuse(self, due: Due, error: Exception) -> int:
        """Record why a function cannot be launched, so that its launches back off."""
        with database.connection() as connection:
            claims = batch_claims.claim_some(connection, due, 1)
        for claim in claims:
            reaper.launch_failed(claim.batch_id, error)
        return len(claims) or self._found_nothing(due)

    def _job_runs(self, sensor: LoadedSensor, job: str) -> JobRuns:
        known = self._jobs.get((sensor.name, job))
        if known is None:
            known = self._jobs[sensor.name, job] = JobRuns(self._instance, sensor, job)
        return known


def _room() -> Room:
    with database.connection() as connection:
        row = fetch_one(
            connection,
            "room_for_runs",
            lease=settings().lease_seconds,
            launch=batch_claims.LAUNCH_SECONDS,
        )
    assert row is not None
    return Room(batch_claims.room(row), int(row["slots"]) > 0, frozenset(row["stopped"]))


def _is_on(sensor: LoadedSensor, room: Room) -> bool:
    return sensor.is_default_running and sensor.selector_id not in room.stopped
