"""The processes of a deployment on several hosts, and the CPU time of each role.

Every worker, the database and the broker have a host of their own; the daemon and the code server
share one. Events are sent from this process.

The hosts are network namespaces of this machine, with their own process ids: they share its cores,
and nothing else. PostgreSQL and Redis are reached over TCP.
"""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import psycopg

from benchmarks.databases import number, use
from benchmarks.installation import ROOT, installation
from benchmarks.peers.environments import redis_program
from runyard.errors import RunyardError
from runyard.store.embedded_programs import (
    SERVER_USER,
    programs_folder,
    run_program,
    server_uid,
)
from runyard.store.embedded_tuning import tuning
from tests.deploy.hosts import Network, can_be_had

ROLES = ("workers", "daemon", "code", "database", "broker", "sender")
# For 8 workers with 16 slots. The default of 100 is one of the walls.
MAX_CONNECTIONS = 600
_READY_SECONDS = 90.0
# Longer than a process does nothing while it starts.
_LOAD_SECONDS = 2.0
# More than an idle daemon uses, or eight idle workers; less than one that warms up.
_QUIET_CORES = 0.4
_WORKSPACE = (
    "load_from:\n  - grpc_server:\n      host: localhost\n      port: 4000\n"
    "      location_name: {code}\n"
)


class ManyHosts:
    """A database, a broker and a daemon with its code server, to which workers are added.

    Parameters
    ----------
    network, folder
        The hosts, and where their files are.
    code
        The code location.
    slots
        How many runs each worker executes at a time.
    variables
        Those that the code location reads.
    """

    def __init__(
        self, network: Network, folder: Path, code: str, slots: int, variables: Mapping[str, str]
    ) -> None:
        self._network, self._folder, self._code, self._slots = network, folder, code, slots
        self._own_variables = variables
        self._home = folder / "home"
        self._programs: dict[str, list[psutil.Process]] = {role: [] for role in ROLES}
        self._programs["sender"].append(psutil.Process())
        self.workers = 0

    def start(self, database: Path) -> None:
        """Start everything but workers."""
        self._home.mkdir()
        self._start_database(database)
        self._start("broker", "broker", [redis_program(), *_REDIS_OPTIONS])
        shutil.copy(ROOT / "dagster.yaml", self._home)
        (self._home / "workspace.yaml").write_text(_WORKSPACE.format(code=self._code))
        migrated = self._network.run(
            "control", _runyard("migrate"), self._variables("migrate"), self._home
        )
        if migrated.returncode:
            raise RunyardError(f"the database is not migrated: {migrated.stderr.strip()}")
        self._start("code", "control", _runyard("code-server", "--port", "4000"))
        wait_for(lambda: number("SELECT count(*) FROM runyard.functions") > 0, "no function")
        self.add_daemon()

    def add_daemon(self) -> None:
        """Start a daemon, and wait until it has loaded the code and prepared the jobs."""
        self._start("daemon", "control", _runyard("daemon"))
        self._wait_until_quiet("daemon")

    def add_workers(self, count: int) -> None:
        """Start more workers, each on its host, and wait until all of their slots are warm."""
        for _ in range(count):
            self.workers += 1
            self._start("workers", f"worker{self.workers}", _runyard("worker"))
        wait_for(lambda: self._live_slots() == self.workers * self._slots, "a worker is missing")
        self._wait_until_quiet("workers")

    def cpu_seconds(self) -> dict[str, float]:
        """CPU seconds that the processes of each role have used so far, ended ones included."""
        return {
            role: sum(_cpu_of(process) for program in programs for process in _tree(role, program))
            for role, programs in self._programs.items()
        }

    def busy_cores(self, role: str, seconds: float) -> float:
        """How many cores a role keeps busy, measured for some seconds."""
        before = self.cpu_seconds()[role]
        time.sleep(seconds)
        return (self.cpu_seconds()[role] - before) / seconds

    def _wait_until_quiet(self, role: str) -> None:
        time.sleep(_LOAD_SECONDS)
        wait_for(
            lambda: self.busy_cores(role, 2.0) < _QUIET_CORES, f"the {role} did not become quiet"
        )

    def memory_mb(self, role: str) -> float:
        """Memory of a role's processes in MB; a page that several of them share counts once."""
        total = 0
        for program in self._programs[role]:
            for process in _tree(role, program):
                with suppress(psutil.Error):
                    total += process.memory_full_info().pss
        return total / 1e6

    def _live_slots(self) -> int:
        return number(
            "SELECT coalesce(sum(slots), 0) FROM runyard.workers"
            " WHERE NOT remote AND heartbeat_at > now() - interval '10 s'"
        )

    def _start_database(self, folder: Path) -> None:
        shutil.chown(folder, server_uid())
        run_program(
            "initdb",
            *["--auth=trust", "--no-sync", "--encoding=utf8", "--username=runyard", "--pgdata=."],
            folder=folder,
        )
        with (folder / "pg_hba.conf").open("a") as rules:
            rules.write(f"host all runyard {self._network.subnet} trust\n")
        settings = {
            "listen_addresses": "*",
            "unix_socket_directories": str(folder),
            "max_connections": str(MAX_CONNECTIONS),
            **tuning(),
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        as_server = f"setpriv --reuid={SERVER_USER} --regid={SERVER_USER} --clear-groups".split()
        command = [*as_server, str(programs_folder() / "postgres"), "-D", str(folder), *options]
        self._start("database", "database", command)
        server = self._url().rpartition("/")[0] + "/postgres"
        wait_for(lambda: _connects(server), "the database does not answer")
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute("CREATE DATABASE runyard")
        use(self._url())

    def _start(self, role: str, host: str, command: Sequence[str]) -> None:
        name = f"{role}{len(self._programs[role])}"
        program = self._network.start(host, command, self._variables(name), self._home)
        self._programs[role].append(psutil.Process(program.pid))

    def _variables(self, name: str) -> dict[str, str]:
        """The variables of a program, with a data folder of its own."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self._folder),
            "PYTHONPATH": str(ROOT),
            "DAGSTER_HOME": str(self._home),
            "RUNYARD_HOME": str(self._home),
            "RUNYARD_DATA_DIR": str(self._folder / f"data-{name}"),
            "DATABASE_URL": self._url(),
            "RUNYARD_BROKER_URL": "redis://broker:6379/0",
            "RUNYARD_CODE": self._code,
            "RUNYARD_CONCURRENCY": str(self._slots),
            **self._own_variables,
        }

    def _url(self) -> str:
        return f"postgresql://runyard@{self._network.addresses['database']}/runyard"


_REDIS_OPTIONS = ["--save", "", "--appendonly", "no", "--protected-mode", "no"]


@contextmanager
def many_hosts(
    code: str, *, workers: int = 0, slots: int = 1, **variables: str
) -> Iterator[ManyHosts]:
    """Run a deployment with room for so many workers, none of which is started yet.

    Raises `RunyardError` where there can be no network namespaces.
    """
    if not can_be_had():
        raise RunyardError(
            "hosts are network namespaces here, which only root can make: run this as root, on"
            " Linux with iproute2 and util-linux"
        )
    names = ["database", "broker", "control", *(f"worker{n + 1}" for n in range(workers))]
    folder, database = (
        Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp")) for prefix in ("ryb-", "rybp-")
    )
    try:
        with installation(code), Network(names, folder) as network:
            hosts = ManyHosts(network, folder, code, slots, variables)
            hosts.start(database)
            yield hosts
    finally:
        shutil.rmtree(folder)
        shutil.rmtree(database)


def wait_for(condition: Callable[[], bool], otherwise: str) -> None:
    """Wait until a condition holds; an AssertionError with these words if it does not in time."""
    deadline = time.monotonic() + _READY_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"{otherwise} after {_READY_SECONDS:.0f} s"
        time.sleep(0.1)


def _runyard(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "runyard", *arguments]


def _connects(url: str) -> bool:
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return False
    return True


def _tree(role: str, program: psutil.Process) -> list[psutil.Process]:
    """A program with its descendants. This process is the sender: the programs are its children."""
    if role == "sender":
        return [program]
    with suppress(psutil.Error):
        return [program, *program.children(recursive=True)]
    return []


def _cpu_of(process: psutil.Process) -> float:
    with suppress(psutil.Error):
        times = process.cpu_times()
        total: float = times.user + times.system
        if process.pid != os.getpid():
            total += times.children_user + times.children_system
        return total
    return 0.0
