"""The faults: kills, stops, a restarting or read-only database, an emptied broker, a deploy."""

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count

import psutil
import psycopg

from benchmarks.soak import functions
from benchmarks.soak.brokers import Broker
from benchmarks.soak.marks import Marks, folder
from runyard import Event, send
from runyard.errors import RunyardError
from runyard.processes.stack import Stack

# The longest exceeds the lease timeout.
_STOPPED_SECONDS = (1.0, 14.0)
_MOST_PROBE_SECONDS = 180.0
_numbers = count(1)


@dataclass
class Fault:
    """A fault and when it began and ended, in seconds since 1970; a kill has no duration.

    `recovery` is how long a new event waited afterwards.
    """

    name: str
    began: float
    ended: float
    recovery: float | None = None


class Faults:
    """Injects one fault after another in random order, each kind equally often."""

    def __init__(self, stack: Stack, broker: Broker, marks: Marks, seed: int) -> None:
        self.done: list[Fault] = []
        self._stack, self._broker, self._marks, self._random = (
            stack,
            broker,
            marks,
            random.Random(seed),
        )
        self._probes: list[threading.Thread] = []
        self._kinds: dict[str, Callable[[], None]] = {
            "kill web": lambda: _kill(self._pid("web")),
            "kill code server": lambda: _kill(self._pid("code")),
            "kill daemon": lambda: _kill(self._pid("daemon")),
            "kill worker": lambda: _kill(self._pid("worker")),
            "kill child": lambda: self._kill_child(in_a_slow_step=False),
            "kill child in a slow step": lambda: self._kill_child(in_a_slow_step=True),
            "kill PostgreSQL": lambda: _kill(self._postmaster()),
            "restart PostgreSQL": lambda: os.kill(self._postmaster(), signal.SIGINT),
            "empty the broker": self._broker.lose_all,
            "stop web": lambda: self._stop_and_go_on("web"),
            "stop code server": lambda: self._stop_and_go_on("code"),
            "stop daemon": lambda: self._stop_and_go_on("daemon"),
            "stop worker": lambda: self._stop_and_go_on("worker"),
        }
        self._round: list[str] = []

    def one(self) -> None:
        """Inject the next fault."""
        if not self._round:
            self._round = self._random.sample(sorted(self._kinds), len(self._kinds))
        name = self._round.pop()
        self._during(name, self._kinds[name], from_its_end=not name.startswith(("kill", "restart")))

    def deploy(self) -> None:
        """Change the code and restart the processes that run it."""

        def change() -> None:
            (folder() / "version").write_text("2")
            self._stack.reload()

        self._during("deploy", change)

    def read_only(self, seconds: float) -> None:
        """Make the database read-only for a while, as during a failover."""
        self._during("read-only database", lambda: self._read_only(seconds), from_its_end=True)

    def wait_for_probes(self) -> None:
        """Wait until the event after each fault has started or been given up on."""
        for probe in self._probes:
            probe.join()

    def _during(self, name: str, do: Callable[[], None], *, from_its_end: bool = False) -> None:
        fault = Fault(name, time.time(), time.time())
        with suppress(
            psutil.NoSuchProcess, ProcessLookupError, FileNotFoundError
        ):  # It was just being restarted.
            do()
        fault.ended = time.time()
        self.done.append(fault)
        probe = threading.Thread(
            target=self._probe,
            args=(fault, fault.ended if from_its_end else fault.began),
            daemon=True,
        )
        probe.start()
        self._probes.append(probe)

    def _probe(self, fault: Fault, since: float) -> None:
        """Send an event until it is accepted, and measure when its first step begins."""
        key = f"p{next(_numbers)}"
        deadline = time.monotonic() + _MOST_PROBE_SECONDS
        while time.monotonic() < deadline:
            with suppress(RunyardError, psycopg.Error):
                send([Event(functions.PROBE, {"key": key}, id=key)])
                break
            time.sleep(0.1)
        while time.monotonic() < deadline:
            time.sleep(0.2)
            began = next((one.begin for one in self._marks.executions() if one.key == key), None)
            if began is not None:
                fault.recovery = began - since
                return

    def _pid(self, part: str) -> int:
        while not (pid := self._stack.pid(part)):
            time.sleep(0.05)
        return pid

    def _postmaster(self) -> int:
        return int(
            (self._stack.settings.postgres_dir / "postmaster.pid").read_text().splitlines()[0]
        )

    def _kill_child(self, *, in_a_slow_step: bool) -> None:
        children = [child.pid for child in psutil.Process(self._pid("worker")).children()]
        under_way = [
            one.pid
            for one in self._marks.executions()
            if one.effect is None and one.step == "slow" and one.pid in children
        ]
        os.kill(
            self._random.choice(under_way if in_a_slow_step and under_way else children),
            signal.SIGKILL,
        )

    def _stop_and_go_on(self, part: str) -> None:
        parent = psutil.Process(self._pid(part))
        stopped = [parent, *parent.children(recursive=True)]
        for process in stopped:
            process.suspend()
        time.sleep(self._random.uniform(*_STOPPED_SECONDS))
        for process in stopped:
            with suppress(psutil.NoSuchProcess):
                process.resume()

    def _read_only(self, seconds: float) -> None:
        with self._setting("default_transaction_read_only = on"):
            time.sleep(seconds)

    @contextmanager
    def _setting(self, line: str) -> Iterator[None]:
        """Set a line of the server's configuration for a while, for open sessions, too."""
        path = self._stack.settings.postgres_dir / "postgresql.auto.conf"
        before = path.read_text()
        path.write_text(f"{before}{line}\n")
        os.kill(self._postmaster(), signal.SIGHUP)
        try:
            yield
        finally:
            path.write_text(before)
            os.kill(self._postmaster(), signal.SIGHUP)


def _kill(pid: int) -> None:
    """SIGKILL a process and all its children at once."""
    parent = psutil.Process(pid)
    for process in [parent, *parent.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            process.kill()
