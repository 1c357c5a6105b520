"""The loop of the functions' sensors in the daemon: no sensor is evaluated before something is due.

It waits for a notification of the database or for the next due time, then evaluates what is due:
the function that has waited longest first, since its oldest invocation was due or since its last
launch, so that the backlog of one holds up no other. A tick claims, writes its runs in the same
transaction, hands them to the broker and returns. Nothing is written while nothing happens, and no
thread waits in a tick. A job that is not prepared yet holds up no other (see `prepared_jobs`).

Under stock `dagster dev` the sensors are evaluated by Dagster's own daemon: see `sensors`.
"""

import gc
import logging
import math
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import suppress
from typing import Any

from dagster import DagsterInstance, DagsterRun, QueuedRunCoordinator

from runyard.dagster_adapter import reaper
from runyard.dagster_adapter.failed_ticks import FailedTicks
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
from runyard.dagster_adapter.postponements import Postponements
from runyard.dagster_adapter.prepared_jobs import PreparedJobs
from runyard.dagster_adapter.tags import BATCH
from runyard.engine.backoff import Backoff
from runyard.engine.batch_claims import Capacities, Capacity, capacities, claim_some
from runyard.engine.due import Due, due_functions, seconds_until_due
from runyard.engine.listener import listener
from runyard.errors import DatabaseUnavailable, RunyardError
from runyard.store import database
from runyard.store.queries import fetch_all

LONGEST_WAIT = 5.0
_SHORTEST_WAIT = 0.005
_WAIT_AFTER_ERROR = 1.0
_log = logging.getLogger("runyard.sensors")


class SensorLoop:
    """Evaluates the sensors of functions in the code that the daemon has loaded.

    `on_progress` is called before each round and each tick.
    """

    def __init__(
        self,
        context: IWorkspaceProcessContext[Any],
        on_progress: Callable[[], None] = lambda: None,
    ) -> None:
        self._context = context
        self._on_progress = on_progress
        self._instance: DagsterInstance = context.instance
        self._version: Hashable = None
        self._sensors: dict[str, LoadedSensor] = {}
        self._twice: list[tuple[LoadedSensor, RunyardError]] = []
        self._jobs = PreparedJobs(self._instance)
        self._launched_at: dict[str, float] = {}
        self._postponements = Postponements(LONGEST_WAIT)
        self._failed_ticks = FailedTicks()
        self._unreachable = Backoff(_log, "the code server is unreachable", LONGEST_WAIT)
        self._failing = Backoff(_log, "a function is not started", LONGEST_WAIT)

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
                with self._jobs.while_idle():
                    notified = woken.wait(wait)
                if notified:
                    self._postponements.interrupt()

    def evaluate_due(self) -> float:
        """Evaluate the sensors of all functions that are due, as far as there is room for runs.

        Returns
        -------
        How many seconds to wait for the next one, unless a notification comes.
        """
        self._on_progress()
        wait = LONGEST_WAIT
        with database.connection() as connection:
            workers = capacities(connection)
            if workers.local.room <= 0 and workers.remote.room <= 0:
                return wait
            stopped = {row["selector_id"] for row in fetch_all(connection, "stopped_sensors")}
        self._load_sensors()
        for left_out, error in self._twice:
            self._failed_ticks.show(left_out, error)
        ready: list[tuple[float, Due, LoadedSensor]] = []
        for due in due_functions():
            sensor = self._sensors.get(due.name)
            if due.seconds is None or sensor is None or sensor.selector_id in stopped:
                continue
            if not has_room(workers, sensor.remote):
                continue
            seconds = max(due.seconds, self._postponements.seconds_left(due.name))
            if seconds <= 0:
                ready.append((self._waiting_since(due.name, due.seconds), due, sensor))
            else:
                wait = min(wait, seconds)
        longest_first = sorted(ready, key=lambda each: each[0])
        if self._evaluate([(due, sensor) for _, due, sensor in longest_first], workers):
            return 0.0  # there may be more, of these functions too
        postponed = [self._postponements.seconds_left(due.name) for _, due, _ in ready]
        return max(_SHORTEST_WAIT, min([wait, *postponed]))

    def _waiting_since(self, function: str, seconds: float) -> float:
        """When a function that has been due for `-seconds` began to wait for a launch."""
        return max(time.monotonic() + seconds, self._launched_at.get(function, -math.inf))

    def _load_sensors(self) -> None:
        """Take over the sensors of code that has been loaded anew."""
        version = loaded_version(self._context)
        if version != self._version:
            self._sensors, self._twice = by_function(function_sensors(self._context))
            for _, error in self._twice:
                _log.warning("%s", error)
            self._jobs.load(list(self._sensors.values()))
            self._version = version
            _keep_from_garbage_collector()

    def _evaluate(self, ready: Sequence[tuple[Due, LoadedSensor]], workers: Capacities) -> int:
        """Let sensors tick one after the other while there is room; returns how many runs."""
        left = {remote: workers.of(remote).room for remote in (False, True)}
        count = 0
        for due, sensor in ready:
            room = left[sensor.remote]
            if room <= 0:
                continue
            self._on_progress()
            try:
                most = room if len(ready) == 1 else 1
                launched = self._tick(due, sensor, most, workers.of(sensor.remote))
            except DagsterUserCodeUnreachableError as error:
                self._unreachable.failed(error)
                self._postponements.postpone_longer(due.name, _WAIT_AFTER_ERROR)
            except DatabaseUnavailable:
                raise
            except Exception as error:
                self._failing.failed(error)
                self._failed_ticks.show(sensor, error)
                self._postponements.postpone_longer(due.name, _WAIT_AFTER_ERROR)
            else:
                left[sensor.remote] -= launched
                count += launched
        return count

    def _tick(self, due: Due, sensor: LoadedSensor, most: int, workers: Capacity) -> int:
        """Claim for one function and launch the runs; returns how many."""
        try:
            job = self._jobs.get(sensor, due.job)
        except (DagsterUserCodeUnreachableError, DatabaseUnavailable):
            raise
        except Exception as error:
            self._failed_ticks.show(sensor, error)
            count = self._refuse(due, error)
        else:
            if job is None:
                self._postponements.postpone_longer(due.name)
                return 0
            count = self._claim_for(due, job, most, workers)
        if count:
            self._launched_at[due.name] = time.monotonic()
            self._postponements.launched(due.name)
        else:
            self._postpone(due)
        return count

    def _claim_for(self, due: Due, job: JobRuns, most: int, workers: Capacity) -> int:
        """Claim and launch as directly as the instance allows; returns how many runs."""
        launcher = self._instance.run_launcher
        self._postponements.trying(due.name)
        if (
            workers.slots > 0
            and job.is_plain
            and isinstance(launcher, WarmRunLauncher)
            and not isinstance(self._instance.run_coordinator, QueuedRunCoordinator)
        ):
            return self._launch(due, job, launcher, most)
        return self._submit(due, job, most)

    def _postpone(self, due: Due) -> None:
        """Leave a function alone that counted as due, but had nothing to claim."""
        seconds = seconds_until_due(due)
        if seconds is not None and seconds <= 0:
            self._postponements.postpone_longer(due.name)  # it is locked, or on its way
        else:
            self._postponements.postpone(due.name, LONGEST_WAIT if seconds is None else seconds)

    def _launch(self, due: Due, job: JobRuns, launcher: WarmRunLauncher, most: int) -> int:
        """Claim and add the runs in one transaction, then hand them to the broker."""
        with database.transaction() as connection:
            claims = claim_some(connection, due, most)
            runs = job.add(connection, due.name, claims) if claims else []
        failure: Exception | None = None
        for run in runs:
            failure = self._hand_over(launcher, run, failure)
        return len(runs)

    def _hand_over(
        self, launcher: WarmRunLauncher, run: DagsterRun, failure: Exception | None
    ) -> Exception | None:
        """Give a run to the broker, unless that failed for another one; return the failure.

        The batch of a run that the broker does not take is released. A broker that hangs is not
        asked for each run: the last claims would seem to be those of a lost daemon.
        """
        if failure is None:
            try:
                launcher.hand_over(run)
            except Exception as error:
                failure = error
        if failure is not None:
            # First: by a batch that was released already, the run is found a lease later.
            report_launch_failure(self._instance, run, failure)
            reaper.launch_failed(run.tags[BATCH], failure)
            return failure
        with database.connection() as connection:
            fetch_all(connection, "mark_handed_over", batch=run.tags[BATCH])
        return None

    def _submit(self, due: Due, job: JobRuns, most: int) -> int:
        """Claim, then let Dagster create and submit the runs.

        That takes a second for each that gets a process of its own, so they are claimed one by one:
        a claim that waited for the others would seem to be that of a lost daemon.
        """
        for count in range(most):
            with database.connection() as connection:
                claims = claim_some(connection, due, 1)
                runs = job.create(connection, due.name, claims) if claims else []
            if not runs:
                return count
            # Dagster has recorded an error, and the launcher has released the batch.
            with suppress(Exception):
                self._instance.submit_run(runs[0].run_id, self._context.create_request_context())
        return most

    def _refuse(self, due: Due, error: Exception) -> int:
        """Record why a function cannot be launched, so that its launches back off."""
        with database.connection() as connection:
            claims = claim_some(connection, due, 1)
        for claim in claims:
            reaper.launch_failed(claim.batch_id, error)
        return len(claims)


def has_room(workers: Capacities, remote: bool) -> bool:
    """Whether a run of one kind of functions may be launched.

    Every worker starts a process that calls applications: one that is not there yet is waited for.
    """
    capacity = workers.of(remote)
    return capacity.room > 0 and not (remote and not capacity.slots and workers.local.slots)


def by_function(
    sensors: Iterable[LoadedSensor],
) -> tuple[dict[str, LoadedSensor], list[tuple[LoadedSensor, RunyardError]]]:
    """The sensor of each function; of several, that of the first code location by name.

    Returns
    -------
    The sensors by function, and each sensor that is left out for a function, with an error that
    says so.
    """
    chosen: dict[str, LoadedSensor] = {}
    twice: list[tuple[LoadedSensor, RunyardError]] = []
    for sensor in sorted(sensors, key=lambda each: (each.location.name, each.name)):
        for name in sensor.functions:
            first = chosen.setdefault(name, sensor)
            if first is not sensor:
                message = (
                    f"the function {name} is in two code locations: {first.location.name}, where"
                    f" its runs are launched, and {sensor.location.name}, where none are; give one"
                    " of them another name"
                )
                twice.append((sensor, RunyardError(message)))
    return chosen, twice


def _keep_from_garbage_collector() -> None:
    """Exclude the loaded code from garbage collections: of a thousand jobs each takes 0.1 s."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
