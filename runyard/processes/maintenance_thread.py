"""The threads of the daemon that do the maintenance and send alerts, in one daemon at a time.

Each holds an advisory lock for as long as its connection lasts, and listens on the same connection
if events are its business: should it be lost, or the daemon be killed, another one has the lock
within seconds. No error ends such a thread.
"""

import logging
import threading

import psycopg
from dagster import DagsterInstance
from psycopg.rows import dict_row

from runyard.dagster_adapter.maintenance import ServiceSchedule, services_of_the_daemon
from runyard.engine.backoff import Backoff
from runyard.engine.listener import DUE
from runyard.store.database import direct_url
from runyard.store.queries import Connection, fetch_one

_LOCK_SECONDS = 2.0
_LONGEST_WAIT = 5.0
# How long the thread may take to notice that it is to stop.
_STOP_SECONDS = 1.0
# Notifications come with every event and every run: they are answered in groups.
_GROUP_SECONDS = 0.05
_log = logging.getLogger("runyard.maintenance")


class MaintenanceThread:
    """Runs the services of `schedule` (by default all) as soon as they are due.

    `lock` is the query that takes the lock; `name` tells the thread and its session apart.
    """

    def __init__(
        self,
        instance: DagsterInstance,
        schedule: ServiceSchedule | None = None,
        lock: str = "lock_maintenance",
        name: str = "maintenance",
    ) -> None:
        self._instance = instance
        self._schedule = schedule or ServiceSchedule(services_of_the_daemon())
        self._lock = lock
        self._name = name
        self._stopping = threading.Event()
        # As a daemon thread it does not keep its process from ending.
        self._thread = threading.Thread(target=self._run, name=f"runyard-{name}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, seconds: float = 2.0) -> None:
        """Stop the thread, and wait for it no longer than this."""
        self._stopping.set()
        self._thread.join(seconds)

    def _run(self) -> None:
        backoff = Backoff(_log, f"no {self._name}", _LONGEST_WAIT)
        while not self._stopping.is_set():
            try:
                with psycopg.connect(
                    direct_url(),
                    autocommit=True,
                    row_factory=dict_row,
                    application_name=f"runyard {self._name}",
                ) as connection:
                    backoff.succeeded()
                    if self._wait_for_lock(connection):
                        self._serve(connection)
            except Exception as error:
                self._stopping.wait(backoff.failed(error))

    def _wait_for_lock(self, connection: Connection) -> bool:
        """Wait until this process has the lock; return False when the thread is to stop before.

        It asks again and again: a session that waits for a lock keeps VACUUM from its work.
        """
        while not self._stopping.is_set():
            row = fetch_one(connection, self._lock)
            if row is not None and row["locked"]:
                return True
            self._stopping.wait(_LOCK_SECONDS)
        return False

    def _serve(self, connection: Connection) -> None:
        if self._schedule.is_for_events:
            connection.execute(f"LISTEN {DUE}".encode())
        events = True
        while not self._stopping.is_set():
            self._schedule.run_due(lambda: self._instance, events=events)
            self._stopping.wait(_GROUP_SECONDS)
            wait = min(self._schedule.seconds_until_due(), _STOP_SECONDS)
            events = bool(list(connection.notifies(timeout=wait, stop_after=1)))
