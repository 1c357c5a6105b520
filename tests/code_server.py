"""A code server of the tests' own, and what a process such as the daemon has loaded from it."""

import signal
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

Server = subprocess.Popen[bytes]


@contextmanager
def loaded_code(module: str) -> Iterator[WorkspaceProcessContext]:
    """Serve a module as a code location, and load it."""
    with served_code(module) as (_, context):
        yield context


@contextmanager
def served_code(module: str) -> Iterator[tuple[Server, WorkspaceProcessContext]]:
    """Serve a module as a code location, and load it; gives the server too."""
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
                yield server, context
        finally:
            server.terminate()
            server.wait(30)


@contextmanager
def hung(server: Server) -> Iterator[None]:
    """Let a server accept connections, but answer nothing."""
    server.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.send_signal(signal.SIGCONT)
