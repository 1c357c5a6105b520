"""The roles of a deployment as processes of this machine, each with the version of a project.

The code servers of two versions share a port, as the pods behind a Service share its address.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from runyard.store import database
from tests.conftest import ROOT, use_database, wait_until
from tests.ports import free_port
from tests.servers import redis
from tests.tables import rows

MODULE = "shop"
_STOP_SECONDS = 60


class Role:
    """One process."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether it has ended."""
        return self._process.poll() is not None

    @property
    def log(self) -> str:
        """What it has printed."""
        return self._log.read_text()

    def tell_to_stop(self) -> None:
        """Send it SIGTERM."""
        self._process.terminate()

    def stop(self) -> None:
        """Send it SIGTERM, and wait until it has ended."""
        self._process.terminate()
        self._process.wait(_STOP_SECONDS)

    def kill(self) -> None:
        """Kill it, if it is still there."""
        self._process.kill()
        self._process.wait()


class Deployment:
    """The processes of one deployment.

    Parameters
    ----------
    folder
        The folder for the versions of its project, and for what its processes print.
    variables
        Environment variables of all its processes.

    Attributes
    ----------
    folder
        That folder. The data folder of each process is in it, too.
    """

    def __init__(self, folder: Path, **variables: str) -> None:
        self.folder = folder
        self._variables = variables
        self._roles: list[Role] = []
        self._code_port = free_port()

    def add_version(self, version: str, code: str) -> None:
        """Write a version of the project, which is this module."""
        project = self.folder / version
        project.mkdir()
        shutil.copy(ROOT / "dagster.yaml", project)
        (project / f"{MODULE}.py").write_text(code)
        server = {"host": "127.0.0.1", "port": self._code_port, "location_name": MODULE}
        (project / "workspace.yaml").write_text(
            json.dumps({"load_from": [{"grpc_server": server}]})
        )

    def start(self, version: str, *command: str, **variables: str) -> Role:
        """Start a process of a version."""
        project = self.folder / version
        number = len(self._roles)
        data = self.folder / f"data-{number}"
        data.mkdir(mode=0o700)
        log = self.folder / f"{number}-{command[0]}-{version}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "runyard", *command],
                cwd=project,
                env={
                    **os.environ,
                    "PYTHONPATH": str(ROOT),
                    "RUNYARD_HOME": str(project),
                    "DAGSTER_HOME": str(project),
                    "RUNYARD_DATA_DIR": str(data),
                    "RUNYARD_CODE": MODULE,
                    **self._variables,
                    **variables,
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        role = Role(process, log)
        self._roles.append(role)
        return role

    def start_code(self, version: str) -> Role:
        """Start a code server, and wait until it has registered its functions."""
        before = _published()
        role = self.start(version, "code-server", "--port", str(self._code_port))
        wait_until(lambda: _published() != before or role.has_ended, 60)
        assert not role.has_ended, role.log
        return role

    def start_daemon(self, version: str) -> Role:
        """Start a daemon."""
        return self.start(version, "daemon", "--workspace", "workspace.yaml")

    def start_worker(self, version: str, slots: int = 2, **variables: str) -> Role:
        """Start a worker, and wait until it is alive."""
        role = self.start(version, "worker", RUNYARD_CONCURRENCY=str(slots), **variables)
        alive = f"SELECT FROM runyard.workers WHERE pid = {role.pid}"
        wait_until(lambda: rows(alive) or role.has_ended, 60)
        assert not role.has_ended, role.log
        return role

    def start_web(self, version: str, port: int) -> Role:
        """Start the public API on a port, and wait until it is ready."""
        role = self.start(version, "web", "--api-only", RUNYARD_PORT=str(port))
        wait_until(lambda: _is_ready(port) or role.has_ended, 60)
        assert not role.has_ended, role.log
        return role

    def logs(self) -> str:
        """What all its processes have printed."""
        return "\n".join(role.log for role in self._roles)

    def kill(self) -> None:
        """Kill all processes that are still there."""
        for role in reversed(self._roles):
            role.kill()


@contextmanager
def deployed(folder: Path, **variables: str) -> Iterator[Deployment]:
    """A deployment without processes yet, on this process's database; all are killed at the end."""
    deployment = Deployment(folder, **variables)
    try:
        yield deployment
    finally:
        deployment.kill()
        database.close_pool()


@contextmanager
def deployed_with_redis(server: str, name: str, code: str, folder: Path) -> Iterator[Deployment]:
    """A deployment with a database of its own, its broker, code server and daemon.

    Its one version is called `only`.
    """
    use_database(server, name)
    with redis(folder) as broker, deployed(folder, RUNYARD_BROKER_URL=broker.url) as made:
        made.add_version("only", code)
        made.start_code("only")
        made.start_daemon("only")
        yield made


def _published() -> list[dict[str, object]]:
    return rows("SELECT * FROM runyard.publications ORDER BY at")


def _is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=10).status_code == 200
    except httpx.TransportError:
        return False
