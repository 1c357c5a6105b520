"""The brokers of the soak test: files, Redis and RabbitMQ, which it starts, kills and empties."""

import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from runyard.errors import RunyardError
from tests.ports import free_port
from tests.servers import RabbitMQ


class Broker(Protocol):
    """A broker under the soak test's control."""

    url: str | None

    def start(self) -> None:
        """Start it; it accepts connections when this returns."""

    def lose_all(self) -> None:
        """Kill it, as a crash would, and restart it empty."""

    def close(self) -> None:
        """Stop it for good."""


class Files:
    """The default: files in the data folder, without a server."""

    url: str | None = None

    def __init__(self, folder: Path) -> None:
        self._queue = folder / "broker" / "queue"

    def start(self) -> None:
        """There is nothing to start."""

    def lose_all(self) -> None:
        """Delete the messages."""
        for message in self._queue.glob("*.msg"):
            message.unlink(missing_ok=True)

    def close(self) -> None:
        """There is nothing to end."""


class Redis:
    """A Redis without persistence."""

    def __init__(self, folder: Path) -> None:
        self._program = shutil.which("redis-server")
        if self._program is None:
            raise RunyardError(
                "the soak needs Redis: apt-get install redis-server, or leave it out of --brokers"
            )
        self._port, self._folder = free_port(), folder
        self.url: str | None = f"redis://127.0.0.1:{self._port}/0"
        self._server: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        self._server = subprocess.Popen(
            [
                str(self._program),
                "--port",
                str(self._port),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--dir",
                str(self._folder),
            ],
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self._port), 1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise RunyardError("Redis does not start")

    def lose_all(self) -> None:
        """Kill it, and start an empty one."""
        self.close()
        self.start()

    def close(self) -> None:
        """End it."""
        if self._server is not None:
            self._server.kill()
            self._server.wait()


class Rabbit:
    """A RabbitMQ: durable messages survive a crash, unless its data are deleted."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "rabbitmq"
        self._folder.mkdir(exist_ok=True)
        self._server = RabbitMQ(self._folder)
        self.url: str | None = self._server.url

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        self._server.start()

    def lose_all(self) -> None:
        """Kill it, delete what it has, and start it again."""
        self._server.kill()
        shutil.rmtree(self._folder / "db", ignore_errors=True)
        self._server.start()

    def close(self) -> None:
        """End it."""
        self._server.close()


BROKERS: dict[str, Callable[[Path], Broker]] = {"files": Files, "redis": Redis, "rabbitmq": Rabbit}
