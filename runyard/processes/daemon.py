"""The Dagster daemon with a sensor loop that wakes at once, and pooled connections."""

import logging
import os
import threading
import time
from pathlib import Path

from dagster import DagsterInstance

from runyard.dagster_adapter import reaper
from runyard.dagster_adapter.internals import (
    DagsterCodeLocationNotFoundError,
    DagsterUserCodeUnreachableError,
    WorkspaceFileTarget,
    capture_interrupts,
    end_ticks_of_predecessor,
    pooled_instance,
    run_daemon,
    setup_interrupt_handlers,
    silence_restarts,
)

_log = logging.getLogger("runyard.processes.daemon")
_SILENT_SECONDS = 30.0


def serve_daemon(workspace: Path) -> int:
    """Run sensors, schedules and the other daemons on the code locations of a workspace file, until interrupted."""
    setup_interrupt_handlers()
    silence_restarts()
    shortened = _Shortened()
    for name in ("SensorDaemon", "WakingSensorDaemon", "SchedulerDaemon"):
        logging.getLogger(f"dagster.daemon.{name}").addFilter(shortened)
    try:
        with capture_interrupts(), pooled_instance() as instance:
            take_back_of_predecessor(instance)
            end_ticks(instance)
            run_daemon(instance, WorkspaceFileTarget(paths=[str(workspace)]))
    except KeyboardInterrupt:
        # Without waiting for the ticks that wait: the next start ends them.
        os._exit(0)
    return 0


def take_back_of_predecessor(instance: DagsterInstance) -> None:
    """Take back what a daemon before this one had claimed and not launched: at once, not when it is overdue. Failing that, the ticks do it."""
    try:
        reaper.take_back(lambda: instance, None, 0)
    except Exception as error:
        _log.warning(
            "what the daemon before this one has claimed is taken back later: %s",
            type(error).__name__,
        )


def end_ticks(instance: DagsterInstance) -> None:
    """End the ticks in which a daemon before this one was waiting.

    Failing that, Dagster does it, with a warning for each.
    """
    try:
        end_ticks_of_predecessor(instance)
    except Exception as error:
        _log.warning("ticks of the daemon before this one end later: %s", type(error).__name__)


class _Shortened(logging.Filter):
    """A code server that is being started again is no news: a line without the traceback, and then none for a while, whichever of the sensors meets it."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._said: float | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        """Shorten a record of this kind, or hold it back."""
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(
            error, DagsterUserCodeUnreachableError | DagsterCodeLocationNotFoundError
        ):
            return True
        with self._lock:
            now = time.monotonic()
            if self._said is not None and now - self._said < _SILENT_SECONDS:
                return False
            self._said = now
        record.exc_info, record.exc_text = None, None
        record.msg, record.args = "the code server is away; trying again", ()
        return True
