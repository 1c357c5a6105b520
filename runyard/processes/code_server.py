"""Publishes the functions, then serves the code location to daemon and web over gRPC."""

import sys
import traceback
from pathlib import Path

from runyard.dagster_adapter import sensors
from runyard.dagster_adapter.internals import grpc_command
from runyard.functions import registry
from runyard.processes.watched_code import note_loaded_code
from runyard.processes.workers import load_code
from runyard.settings import settings
from runyard.text.redaction import redact

# The UI and the daemon ask for little at a time; the ticks of schedules and sensors take threads.
_THREADS = 16


def serve_code(socket_path: Path) -> int:
    """Publish the functions, then run Dagster's own gRPC server on a Unix socket until stopped.

    Code that fails to load is shown with its error in the Dagster UI, and the published functions
    stay as they were.
    """
    try:
        sensors.check_io_managers(load_code().get_repository_def())
    except Exception as error:
        note_loaded_code(error)
        print(redact(traceback.format_exc()), end="", file=sys.stderr)
        print(
            "The code does not load, so the functions stay as they were. Fix the error: the code is"
            " reloaded when a file changes.",
            file=sys.stderr,
            flush=True,
        )
    else:
        note_loaded_code()
        registry.publish()
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
