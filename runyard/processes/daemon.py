"""The Dagster daemon with the loop of the functions' sensors, and pooled connections."""

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from dagster import DagsterInstance
from sqlalchemy.exc import OperationalError

from runyard.dagster_adapter import reaper
from runyard.dagster_adapter.apps_workspace import AppsTarget
from runyard.dagster_adapter.internals import (
    DagsterCodeLocationNotFoundError,
    DagsterUserCodeUnreachableError,
    IWorkspaceProcessContext,
    WorkspaceFileTarget,
    capture_interrupts,
    leave_loggers_alone,
    pool_connections,
    run_daemon,
    setup_interrupt_handlers,
    silence_restarts,
)
from runyard.dagster_adapter.sensor_loop import SensorLoop
from runyard.dagster_adapter.storage_place import check_storage
from runyard.engine.backoff import Backoff
from runyard.errors import DatabaseUnavailable
from runyard.processes.alerts import alerts_thread
from runyard.processes.apps_server import start_when_needed
from runyard.processes.heartbeat_file import HeartbeatFile
from runyard.processes.maintenance_thread import MaintenanceThread
from runyard.processes.stack_files import socket_path
from runyard.settings import settings
from runyard.tracing.recording import end_recording

_log = logging.getLogger("runyard.processes.daemon")
_SILENT_SECONDS = 30.0
_LONGEST_WAIT = 5.0
_LOGGERS = ("SensorDaemon", "FunctionSensorDaemon", "SchedulerDaemon")


def serve_daemon(workspace: Path) -> int:
    """Run sensors, schedules and the other daemons of a workspace file until interrupted.

    Raises `RunyardError` when Dagster's storage is not in the database of DATABASE_URL.
    """
    setup_interrupt_handlers()
    silence_restarts()
    if settings().log_format == "json":
        leave_loggers_alone()
    outages = OutageFilter()
    for name in _LOGGERS:
        logging.getLogger(f"dagster.daemon.{name}").addFilter(outages)
    try:
        with ExitStack() as stack:
            instance = stack.enter_context(DagsterInstance.get())
            await_storage(instance)
            # From here on Dagster's loops look whether they are to end; until then a signal ends.
            stack.enter_context(capture_interrupts())
            pool_connections(instance)
            reclaim_from_predecessor(instance)
            MaintenanceThread(instance).start()
            if (alerts := alerts_thread(instance)) is not None:
                alerts.start()
            heartbeat = HeartbeatFile()
            of_functions, of_others = heartbeat.of_loop(), heartbeat.of_loop()
            target = AppsTarget(WorkspaceFileTarget(paths=[str(workspace)]), socket_path("apps"))
            start_when_needed(target.is_served)
            run_daemon(
                instance,
                target,
                lambda context: _start_functions(context, target, of_functions),
                of_others,
            )
    except KeyboardInterrupt:
        end_recording()
        os._exit(0)  # without waiting for the ticks of other sensors
    return 0


def _start_functions(
    context: IWorkspaceProcessContext[Any], target: AppsTarget, on_progress: Callable[[], None]
) -> None:
    target.follow(context)
    SensorLoop(context, on_progress).run()


def await_storage(instance: DagsterInstance) -> None:
    """Check where Dagster's storage is, as soon as the databases answer."""
    backoff = Backoff(_log, "the daemon does not start yet", _LONGEST_WAIT)
    while True:
        try:
            return check_storage(instance)
        except (DatabaseUnavailable, OperationalError) as error:
            time.sleep(backoff.failed(error))


def reclaim_from_predecessor(instance: DagsterInstance) -> None:
    """Release at once what an earlier daemon claimed and did not launch.

    If that fails, the maintenance releases it when it is overdue.
    """
    try:
        reaper.reclaim_unlaunched(lambda: instance, 0)
    except Exception as error:
        _log.warning("claims of an earlier daemon are released later: %s", type(error).__name__)


class OutageFilter(logging.Filter):
    """Shortens what is logged while the code server restarts, which every sensor notices.

    It leaves one line without a traceback, then nothing for a while.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._logged_at: float | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        """Shorten or suppress records of an unreachable code server; pass all others."""
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(
            error, DagsterUserCodeUnreachableError | DagsterCodeLocationNotFoundError
        ):
            return True
        with self._lock:
            now = time.monotonic()
            if self._logged_at is not None and now - self._logged_at < _SILENT_SECONDS:
                return False
            self._logged_at = now
        record.exc_info, record.exc_text = None, None
        record.msg, record.args = "the code server is unreachable; trying again", ()
        return True
