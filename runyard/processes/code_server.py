"""The code server: publishes the functions, then serves the code location to daemon and web over gRPC."""

import logging
import sys
import traceback
from pathlib import Path

from dagster import DagsterInstance

from runyard.dagster_adapter import reaper, sensors
from runyard.dagster_adapter.internals import grpc_command
from runyard.engine import dispatch
from runyard.functions import registry
from runyard.processes.workers import load_code
from runyard.settings import settings
from runyard.text.redaction import redact

# A waiting sensor holds a thread of the server; the UI and the daemon need some besides.
_THREADS = 128
_log = logging.getLogger("runyard.code")


def serve_code(socket_path: Path) -> int:
    """Publish the functions of the code, then be Dagster's own gRPC server on a Unix socket until stopped.

    Code that does not load is shown with its error in the Dagster UI; the functions stay as they were.
    """
    sensors.wait_long()
    try:
        sensors.check_io_managers(load_code().get_repository_def())
    except Exception:
        print(redact(traceback.format_exc()), end="", file=sys.stderr)
        print(
            "The code does not load; the functions stay as they were. Mend it: it is loaded again when a file changes.",
            file=sys.stderr,
            flush=True,
        )
    else:
        registry.publish()
        _take_back_of_predecessor()
    socket_path.unlink(missing_ok=True)
    grpc_command.main(
        [
            "--module-name",
            settings().code,
            "--socket",
            str(socket_path),
            "--max-workers",
            str(_THREADS),
            "--location-name",
            settings().code,
            "--log-level",
            "warning",
            "--lazy-load-user-code",
        ],
        standalone_mode=False,
    )
    return 0


def _take_back_of_predecessor() -> None:
    """Take back what the ticks of a code server before this one had claimed: nobody was told of it. Failing that, the ticks do it."""
    names = [function.name for function in registry.functions()]
    try:
        if dispatch.unlaunched(names, 0):
            with DagsterInstance.get() as instance:
                reaper.reclaim_unlaunched(lambda: instance, names, 0)
    except Exception as error:
        _log.warning(
            "what the code server before this one has claimed is taken back later: %s",
            type(error).__name__,
        )
