"""The whole stack on one machine, under supervisord: database, code server, daemon, web, worker.

`Stack` writes a supervisord configuration into the data folder, starts it, restarts parts of it
when code changes, and stops everything: a process that still runs after a few seconds is killed
with its children.
"""

import ctypes
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from jinja2 import StrictUndefined, Template
from supervisor.xmlrpc import Faults

from runyard.errors import RunyardError
from runyard.processes.child_process import HAND_BACK_SECONDS
from runyard.processes.code_check import check_code, remember_problem, remembered_problem
from runyard.processes.code_location import CodeProblem
from runyard.processes.migrate import migrate
from runyard.processes.stack_files import socket_path, stack_workspace
from runyard.settings import UP_DRAIN_SECONDS, Settings, settings
from runyard.store.data_folder import data_folder
from runyard.store.database import database_url, is_embedded
from runyard.store.embedded import start_embedded, stop_embedded
from runyard.store.private_folders import (
    keep_private,
)

PARTS = ("code", "daemon", "web", "worker")
# The parts that run the project's code, and so restart when it changes.
_RELOADED = ("code", "worker")
_ALONE = ("code", "apps")
_STOP_SECONDS = 6
_SPARE_SECONDS = HAND_BACK_SECONDS + 1  # a worker waits for its caller
# How soon a worker that does not end is told to stop once more.
_AGAIN_SECONDS = 0.5
# What supervisord and the parts that do not drain may take besides.
_REST_SECONDS = 6
_READY_SECONDS = 90.0
# When supervisord, which does one thing after the other, counts as hung.
_ANSWER_SECONDS = 10.0
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class _Program(NamedTuple):
    """A program of the stack, as supervisord runs it."""

    name: str
    command: str
    priority: int = 20
    stop_seconds: int = _STOP_SECONDS
    stop_signal: str = "TERM"
    autostart: bool = True
    drains: bool = False


_PROGRAMS = {
    "code": _Program("code", "code-server", priority=15, stop_signal="KILL"),
    # Started by the daemon when an application has registered functions.
    "apps": _Program(
        "apps", "code-server --apps", priority=15, stop_signal="KILL", autostart=False
    ),
    "daemon": _Program("daemon", "daemon"),
    "web": _Program("web", "web", drains=True),
    "worker": _Program("worker", "worker", drains=True),
    "postgres": _Program("postgres", "postgres", priority=10, stop_seconds=3),
}
_CONFIG_TEMPLATE = Template(
    Path(__file__).with_name("supervisord.conf").read_text(encoding="utf-8"),
    trim_blocks=True,
    undefined=StrictUndefined,
    finalize=lambda value: str(value).replace("%", "%%"),  # supervisord expands %(name)s
)


def environment(url: str, of: Settings | None = None) -> dict[str, str]:
    """The variables that every process of the project needs.

    `dagster.yaml` reads them.
    """
    chosen = of or settings()
    return {
        "DAGSTER_HOME": str(chosen.home),
        "RUNYARD_HOME": str(chosen.home),
        "RUNYARD_DATA_DIR": str(chosen.data),
        "DATABASE_URL": url,
        "RUNYARD_PORT": str(chosen.port),
        "RUNYARD_HOST": chosen.host,
    }


def start_database(of: Settings) -> str:
    """Create the data folder, start the embedded database unless another is set; return the URL."""
    data_folder(of)
    if is_embedded(of):
        start_embedded(of.postgres_dir, of.data / "postgres")
    url = database_url(of)
    data_folder(of)  # private again, should an older version's database have been moved out of it
    return url


class _SocketTransport(xmlrpc.client.Transport):
    """Speaks XML-RPC through a Unix socket; no answer in time is a `TimeoutError`."""

    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__()
        self._path = path
        self._seconds = seconds

    def make_connection(self, host: Any) -> HTTPConnection:
        """A connection that is used once, unlike that of the base class."""
        connection = HTTPConnection(str(host))
        self._connection = host, connection  # so that it is closed whatever happens
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(self._seconds)
        connection.sock.connect(str(self._path))
        return connection


class Stack:
    """Starts and stops the stack of one project; a context manager that stops what it started.

    Parameters
    ----------
    parts
        Which of `PARTS` to run.
    quiet
        Write the processes' output to `stack.log` in the data folder only, not to this terminal.

    Attributes
    ----------
    drain_timeout
        How many seconds runs in progress have to finish when the stack stops.
    """

    def __init__(self, parts: Sequence[str] = PARTS, *, quiet: bool = False) -> None:
        self.parts = parts
        self.quiet = quiet
        self.settings = settings()
        self.log = self.settings.data / "stack.log"
        is_set = "drain_timeout" in self.settings.model_fields_set
        self.drain_timeout = self.settings.drain_timeout if is_set else UP_DRAIN_SECONDS
        self._embedded = is_embedded(self.settings)
        self._config_path = self.settings.data / "supervisord.conf"
        self._supervisor: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Stack":
        # Outside the `try`: a stack that is running already must not be stopped.
        self._check_free()
        try:
            self.start()
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _check_free(self) -> None:
        """Raise `RunyardError` when the stack is running already, or its port is in use."""
        if self.is_running():
            raise RunyardError(
                "the stack of this project is running already: stop it with `runyard down`,"
                " or open it in the browser"
            )
        self._check_port()

    def start(self) -> None:
        """Start the database, migrate it, then start all parts.

        Raises `RunyardError` when the project's code does not load, before any part starts.
        """
        keep_private()
        os.environ.update(environment(start_database(self.settings), self.settings))
        settings.cache_clear()
        self._migrate_and_check_code()
        self._check_storage()
        _write_workspace(self.settings)
        socket_path("apps").unlink(missing_ok=True)
        self._config_path.write_text(self._config())
        output = self.log.open("ab") if self.quiet else None
        self._supervisor = subprocess.Popen(
            [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(self._config_path)],
            env={**os.environ, "RUNYARD_DRAIN_TIMEOUT": str(self.drain_timeout)},
            start_new_session=True,
            preexec_fn=_stop_with_parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=output,
        )
        if output is not None:
            output.close()

    def _check_storage(self) -> None:
        """Raise `RunyardError` when the daemon would refuse to start."""
        from runyard.processes.checks import check_dagster_storage

        if "daemon" in self.parts:
            check_dagster_storage()

    def _migrate_and_check_code(self) -> None:
        """Bring the tables up to date, and meanwhile see whether the code loads."""
        if not set(_RELOADED).intersection(self.parts):
            migrate()
            return
        with ThreadPoolExecutor(1) as pool:
            checking = pool.submit(check_code)
            try:
                migrate()
            finally:  # migrations of the project may well fail with the same error
                problem = checking.result().problem
                remember_problem(problem)
                _raise_for(problem)

    def wait_ready(self, seconds: float = _READY_SECONDS) -> None:
        """Wait until the web process answers and a worker is alive.

        Raises `RunyardError` after `seconds`.
        """
        from runyard.processes.checks import not_ready

        deadline = time.monotonic() + seconds
        problems: list[str] = ["starting"]
        while time.monotonic() < deadline:
            if self._supervisor is not None and self._supervisor.poll() is not None:
                raise RunyardError(
                    f"the stack stopped while it was starting: {self._where_to_look()},"
                    " and run `runyard doctor`"
                )
            _raise_for(remembered_problem())
            problems = not_ready(self.parts)
            if not problems:
                return
            time.sleep(0.1)
        raise RunyardError(
            f"the stack is not ready after {seconds:.0f} s: {'; '.join(problems)}:"
            f" {self._where_to_look()}"
        )

    def _where_to_look(self) -> str:
        """Where the parts' output is: this terminal, or the log of a quiet stack."""
        if self.quiet:
            return f"see {self.log}"
        return f"see the lines above and {self.settings.data / 'supervisord.log'}"

    def wait(self) -> int:
        """Wait until supervisord ends; return its exit code."""
        assert self._supervisor is not None
        return self._supervisor.wait()

    def reload(self) -> None:
        """Restart the parts that run the project's code; runs in progress get a few seconds."""
        for part in _RELOADED:
            if part in self.parts:
                self.restart(part)

    def restart(self, part: str) -> None:
        """Stop and start one part."""
        with suppress(xmlrpc.client.Fault):
            self._ask("stopProcess", _full_name(part), seconds=self.seconds_to_stop())
        self._ask("startProcess", _full_name(part), False)

    def start_part(self, part: str) -> None:
        """Start one part, unless it runs; raises OSError when there is no running stack."""
        try:
            self._ask("startProcess", _full_name(part), False)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode != Faults.ALREADY_STARTED:
                raise

    def pid(self, part: str) -> int:
        """The process id of a part (0 while it restarts)."""
        return int(self._ask("getProcessInfo", _full_name(part))["pid"])

    def is_running(self) -> bool:
        """Whether a supervisord of this project listens, even if it hangs."""
        try:
            self._ask("getState")
        except TimeoutError:
            return True
        except (OSError, xmlrpc.client.Error):
            return False
        return True

    def stop(self) -> None:
        """Stop all parts, then the database; no process of the stack remains.

        An interrupt meanwhile, by Ctrl-C, ends the time that runs in progress have to finish;
        another one kills what is left.
        """
        pid = self._supervisor.pid if self._supervisor is not None else self._written_pid()
        worker, runs = 0, list[psutil.Process]()
        try:
            seconds = self.seconds_to_stop()
            try:
                pid = int(self._ask("getPID"))
                if "worker" in self.parts:
                    worker = self.pid("worker")
                if "code" in self.parts:
                    runs = _descendants(self.pid("code"))
                self._ask("shutdown")
            except (OSError, xmlrpc.client.Error):
                # A supervisord that has only just started does not listen yet, and one that hangs
                # does not answer.
                _terminate(pid)
            _wait_for_end(pid, seconds)
        except KeyboardInterrupt:
            _stop_now(pid, worker)
        if self._supervisor is not None:
            self._supervisor.wait()
            self._supervisor = None
        # The processes of runs that began without a worker: their steps may ignore SIGTERM.
        _kill(runs)
        # From now on it would lead to a code server that is not there.
        stack_workspace(self.settings).unlink(missing_ok=True)
        if self._embedded:
            stop_embedded(self.settings.postgres_dir)

    def _written_pid(self) -> int:
        """The process id that supervisord has written into the data folder; 0 if it has ended."""
        try:
            pid = int((self.settings.data / "supervisord.pid").read_text())
            is_ours = str(self._config_path) in psutil.Process(pid).cmdline()
        except (OSError, ValueError, psutil.Error):
            return 0
        return pid if is_ours else 0

    def seconds_to_stop(self) -> float:
        """How long the stack may take to stop.

        A stack that runs may have been started with another `RUNYARD_DRAIN_TIMEOUT` than this
        process has.
        """
        programs = [self._in_time(_PROGRAMS[part]) for part in self.parts]
        seconds = [program.stop_seconds for program in programs]
        with suppress(OSError, xmlrpc.client.Error):
            running = self._ask("getAllConfigInfo")
            seconds = [each["stopwaitsecs"] for each in running if each["name"] in _PROGRAMS]
        return float(max(seconds, default=_STOP_SECONDS)) + _REST_SECONDS

    def _check_port(self) -> None:
        if "web" not in self.parts:
            return
        host, port = self.settings.host, self.settings.port
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise RunyardError(
                    f"port {port} of {host} cannot be used ({error.strerror}):"
                    " free it, or set RUNYARD_PORT"
                ) from error

    def _ask(self, method: str, *arguments: object, seconds: float | None = None) -> Any:
        """Call supervisord's XML-RPC interface (supervisor 4, `supervisor.*`).

        Raises OSError when it does not listen, or does not answer within `seconds` (10).
        """
        if not self.settings.data.exists():
            raise FileNotFoundError(f"there is no {self.settings.data}")
        transport = _SocketTransport(socket_path("supervisor"), seconds or _ANSWER_SECONDS)
        with xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport) as remote:
            return getattr(remote.supervisor, method)(*arguments)

    def _in_time(self, program: _Program) -> _Program:
        """A program with as much time to stop as its runs and requests have to finish."""
        seconds = math.ceil(self.drain_timeout) + _SPARE_SECONDS if program.drains else 0
        return program._replace(stop_seconds=max(program.stop_seconds, seconds))

    def _config(self) -> str:
        """The supervisord configuration."""
        programs = [self._in_time(_PROGRAMS[part]) for part in self.parts]
        if "daemon" in self.parts:
            programs.append(_PROGRAMS["apps"])
        if self._embedded:
            programs.append(_PROGRAMS["postgres"])
        config: str = _CONFIG_TEMPLATE.render(
            home=self.settings.home,
            data=self.settings.data,
            socket=socket_path("supervisor"),
            python=sys.executable,
            log=self.log if self.quiet else "/dev/fd/2",
            grouped=[part for part in self.parts if part != "code"],
            programs=programs,
        )
        return config


def _raise_for(problem: CodeProblem | None) -> None:
    if problem is not None:
        raise RunyardError(
            f"the code does not load: {problem}. Correct it and start again; `runyard doctor` says"
            " whether it loads"
        )


def _wait_for_end(pid: int, seconds: float) -> None:
    """Wait for a process to end, if there is one; kill it and its descendants when it does not."""
    if not pid:
        return
    try:
        process = psutil.Process(pid)
        process.wait(seconds)
    except psutil.NoSuchProcess:
        return
    except psutil.TimeoutExpired:
        # Each program that supervisord runs has a process group of its own.
        _kill([process, *process.children(recursive=True)])


def _descendants(pid: int) -> list[psutil.Process]:
    """The processes that a process has started, and those that these have, while it is there."""
    try:
        return psutil.Process(pid).children(recursive=True) if pid else []
    except psutil.NoSuchProcess:
        return []


def _kill(processes: Sequence[psutil.Process]) -> None:
    for each in processes:
        with suppress(psutil.NoSuchProcess):
            each.kill()


def _stop_now(pid: int, worker: int) -> None:
    """End supervisord at once: a worker that is told to stop once more hands back its runs.

    Without a process id there is nothing to end.
    """
    until = time.monotonic() + _STOP_SECONDS + _REST_SECONDS
    try:
        _terminate(pid)  # it may not have been told at all
        _terminate_repeatedly(worker, until)
        _wait_for_end(pid, max(0.0, until - time.monotonic()))
    except KeyboardInterrupt:
        _wait_for_end(pid, 0)


def _terminate(pid: int) -> None:
    """Send a process SIGTERM, if there is one: 0 would be the process group of the caller."""
    if pid:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


def _terminate_repeatedly(worker: int, until: float) -> None:
    """Tell a worker to stop; again and again, for two signals in a second are one to it."""
    if not worker:
        return
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(worker)
        while time.monotonic() < until:
            process.terminate()
            with suppress(psutil.TimeoutExpired):
                process.wait(_AGAIN_SECONDS)
                return


def _stop_with_parent() -> None:
    """Ask Linux to send this process SIGTERM when its parent ends.

    So even a killed `runyard up` leaves nothing behind.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def start_apps_server() -> bool:
    """Let the running stack start the code server of applications; False without a stack."""
    try:
        Stack(()).start_part("apps")
    except OSError:
        return False
    return True


def _full_name(part: str) -> str:
    """A part's name in supervisord, with its group."""
    return part if part in _ALONE else f"stack:{part}"


def _write_workspace(of: Settings) -> None:
    server = {"socket": str(socket_path("code", of)), "location_name": of.code}
    workspace = {"load_from": [{"grpc_server": server}]}
    stack_workspace(of).write_text(json.dumps(workspace, indent=2))  # JSON is YAML too
