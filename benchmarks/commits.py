"""NOTIFY's lock: how many events a second get in when each is a transaction of its own.

A transaction that has notified somebody holds a lock of the whole server from before its commit
until the commit is on disk, so such transactions commit one after the other, where others share a
write to disk. Measured with pgbench, which needs little of the processor itself.
"""

import os
import re
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import parse_qs, urlparse

import psycopg

from benchmarks.background import meanwhile
from benchmarks.databases import other_databases, using
from benchmarks.machine import cpu_seconds
from runyard.functions import registry
from runyard.functions.registry import Function
from runyard.processes.migrate import migrate
from runyard.store.embedded_programs import programs_folder

CONNECTIONS = (1, 4, 16, 32)
SECONDS = 4
ROUNDS = 3
_SILENT = "-c runyard.notify=off"
_SEND = "SELECT runyard.send('bench/committed', '{\"n\": 1}');\n"
# A transaction that only notifies writes nothing, so there is nothing to wait for under the lock.
_NOTIFY = "SELECT pg_notify('runyard_due', 'committed');\n"
_FUNCTION = Function("committed", "committed_job", ("bench/committed",), max_batch=500)

Measured = dict[str, list[float]]


@dataclass(frozen=True)
class _Mode:
    """What each client does again and again, and the options of its session."""

    script: str
    options: str = ""


_MODES = {
    "notify": _Mode(_SEND),
    "silent": _Mode(_SEND, _SILENT),
    "notify_after": _Mode(_SEND + _NOTIFY, _SILENT),
}


def commits() -> dict[str, Any]:
    """Events in a transaction each, by connections, with NOTIFY and without: events a second.

    `notify_after` notifies in a transaction of its own, after the commit of the event. Each event
    starts a function, and somebody listens, as the daemon does.
    """
    result: dict[str, Any] = {}
    with (
        other_databases(["commits"]) as urls,
        using(urls["commits"]),
        TemporaryDirectory() as folder,
    ):
        migrate()
        with registry.use(_FUNCTION):
            registry.publish()
        with _listener(urls["commits"]):
            for connections in CONNECTIONS:
                result |= _compared(urls["commits"], Path(folder), connections)
    return result


def _compared(url: str, folder: Path, connections: int) -> dict[str, Any]:
    """All modes in turns; the medians, and how busy the server kept the processor."""
    rates: Measured = {mode: [] for mode in _MODES}
    cores: Measured = {mode: [] for mode in _MODES}
    for number in range(ROUNDS):
        for mode in list(_MODES)[:: 1 if number % 2 else -1]:
            cpu, began = cpu_seconds(), time.monotonic()
            rates[mode].append(_events_a_second(url, folder, connections, _MODES[mode]))
            cores[mode].append((cpu_seconds() - cpu) / (time.monotonic() - began))
    medians = {mode: statistics.median(rates[mode]) for mode in _MODES}
    return {
        **{f"{mode}_{connections}_per_s": round(medians[mode]) for mode in _MODES},
        **{
            f"{mode}_{connections}_server_cores": round(statistics.median(cores[mode]), 2)
            for mode in _MODES
        },
        **{
            f"{mode}_{connections}_times_notify": round(medians[mode] / medians["notify"], 2)
            for mode in _MODES
            if mode != "notify"
        },
    }


def _events_a_second(url: str, folder: Path, connections: int, mode: _Mode) -> float:
    script = folder / "script.sql"
    script.write_text(mode.script)
    address = urlparse(url)
    host = parse_qs(address.query)["host"][0]
    done = subprocess.run(
        [
            programs_folder() / "pgbench",
            *f"--no-vacuum --protocol=prepared --jobs={min(2, connections)}".split(),
            f"--client={connections}",
            f"--time={SECONDS}",
            f"--file={script}",
            f"--host={host}",
            f"--username={address.username}",
            address.path.removeprefix("/"),
        ],
        env={**os.environ, "PGOPTIONS": mode.options, "PGPORT": "5432"},
        capture_output=True,
        text=True,
        check=False,
    )
    rate = re.search(r"^tps = ([\d.]+) \(without", done.stdout, re.MULTILINE)
    assert rate, f"pgbench measured nothing: {done.stderr.strip()}"
    return float(rate[1])


@contextmanager
def _listener(url: str) -> Iterator[None]:
    """Somebody who waits for notifications, and reads them."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("LISTEN runyard_due")
        with meanwhile(lambda: list(connection.notifies(timeout=0.2)), 0):
            yield
