"""The code server: publishes the functions, then serves the code location to daemon and web over gRPC."""

from pathlib import Path

from dagster._cli.api import grpc_command

from runyard import registry
from runyard.settings import settings
from runyard.workers import load_code

# A waiting sensor holds a thread of the server; the UI and the daemon need some besides.
_THREADS = 128


def serve_code(socket_path: Path) -> int:
    """Publish the functions of the code, then be Dagster's own gRPC server on a Unix socket until stopped."""
    load_code()
    registry.publish()
    socket_path.unlink(missing_ok=True)
    grpc_command.main(
        [
            "--module-name", settings().code, "--socket", str(socket_path), "--max-workers", str(_THREADS),
            "--location-name", settings().code, "--log-level", "warning",
        ],
        standalone_mode=False,
    )  # fmt: skip
    return 0
