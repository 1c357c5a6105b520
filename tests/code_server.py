"""A code server of the tests' own, and what a process such as the daemon has loaded from it."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dagster import DagsterInstance
from dagster._core.workspace.load_target import GrpcServerTarget

from runyard.dagster_adapter.internals import WorkspaceProcessContext
from tests.conftest import ROOT, wait_until


@contextmanager
def loaded_code(module: str) -> Iterator[WorkspaceProcessContext]:
    """Serve a module as a code location, and load it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, DagsterInstance.get() as instance:
        socket = Path(folder, "socket")
        command = ["api", "grpc", "--module-name", module, "--socket", str(socket)]
        server = subprocess.Popen(
            [sys.executable, "-m", "dagster", *command, "--log-level", "error"], cwd=ROOT
        )
        try:
            wait_until(lambda: socket.exists() or server.poll() is not None)
            target = GrpcServerTarget("localhost", None, str(socket), module)
            with WorkspaceProcessContext(instance, target) as context:
                yield context
        finally:
            server.terminate()
            server.wait(30)
