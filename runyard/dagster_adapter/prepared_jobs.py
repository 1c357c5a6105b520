"""Prepares jobs for their launches, outside the sensor loop's thread.

What launches of a job need (`JobRuns`) is asked of the code server once per version of the code.
That takes 10 to 20 ms, or as long as gRPC's timeout when the code server hangs. So while the loop
waits for events, all jobs are prepared one after the other, those launched most recently first, in
a fifth of the time. A job whose event comes earlier is prepared at once. The loop waits for that
too, but only briefly.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress

from dagster import DagsterInstance

from runyard.dagster_adapter.internals import LoadedSensor
from runyard.dagster_adapter.launches import JobRuns
from runyard.store import database
from runyard.store.queries import fetch_all

Job = tuple[str, str]  # the names of its sensor and its own
_PATIENCE = 0.25
_SHARE_OF_TIME = 0.2


class PreparedJobs:
    """The jobs of one version of the code, as far as they are prepared."""

    def __init__(self, instance: DagsterInstance) -> None:
        self._instance = instance
        self._known: dict[Job, JobRuns] = {}
        self._asked: dict[Job, Future[JobRuns]] = {}
        self._asking = _one_thread()
        self._answers_soon = True
        self._idle = threading.Event()

    def load(self, sensors: Sequence[LoadedSensor]) -> None:
        """Take over the sensors of another version of the code.

        Jobs of code locations that were not loaded anew stay prepared.
        """
        self._asking.shutdown(wait=False, cancel_futures=True)
        self._asking = _one_thread()
        self._asked = {}
        self._answers_soon = True
        places = {sensor.name: sensor.location for sensor in sensors}
        self._known = {
            (name, job): runs
            for (name, job), runs in list(self._known.items())
            if runs.sensor.location is places.get(name)
        }
        threading.Thread(
            target=self._prepare_all,
            args=(self._known, sensors),
            name="runyard-prepared-jobs",
            daemon=True,
        ).start()

    @contextmanager
    def while_idle(self) -> Iterator[None]:
        """Let jobs be prepared that no event has asked for yet."""
        self._idle.set()
        try:
            yield
        finally:
            self._idle.clear()

    def is_known(self, sensor: LoadedSensor, job: str) -> bool:
        """Whether a job is prepared."""
        return (sensor.name, job) in self._known

    def get(self, sensor: LoadedSensor, job: str) -> JobRuns | None:
        """Return what launches of a job need; None if the code server has not answered yet.

        Raises what `JobRuns` raises, once for each time that the code server was asked.
        """
        key = (sensor.name, job)
        if key in self._known:
            return self._known[key]
        asked = self._asked.get(key)
        if asked is None:
            asked = self._asked[key] = self._asking.submit(JobRuns, self._instance, sensor, job)
        # A code server that hangs makes the loop wait once, not once for each function.
        wait([asked], _PATIENCE if self._answers_soon else 0)
        self._answers_soon = asked.done()
        if not asked.done():
            return None
        del self._asked[key]
        self._known[key] = asked.result()
        return self._known[key]

    def _prepare_all(self, known: dict[Job, JobRuns], sensors: Sequence[LoadedSensor]) -> None:
        """Prepare one job after the other, until other code is loaded."""
        for sensor in _latest_first(sensors):
            for job in sensor.jobs:
                self._idle.wait()
                if known is not self._known:
                    return
                if (sensor.name, job) not in known:
                    began = time.monotonic()
                    with suppress(Exception):  # it is reported when an event asks for the job
                        known[sensor.name, job] = JobRuns(self._instance, sensor, job)
                    took = time.monotonic() - began
                    time.sleep(took / _SHARE_OF_TIME - took)


def _one_thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="runyard-asked-jobs")


def _latest_first(sensors: Sequence[LoadedSensor]) -> Sequence[LoadedSensor]:
    """Sensors by the time of their last launch; in the given order if the database is away."""
    by_selector = {sensor.selector_id: sensor for sensor in sensors}
    with suppress(Exception), database.connection() as connection:
        rows = fetch_all(connection, "latest_launches_first", selectors=list(by_selector))
        return [by_selector[row["selector_id"]] for row in rows]
    return sensors
