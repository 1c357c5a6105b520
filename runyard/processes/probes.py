"""Whether one process of this host is alive, as cheaply as its supervisor may ask.

Worker and daemon serve no HTTP. A worker reports to the database, and a daemon touches a file in
its data folder. A probe that failed with the database would have every process restarted during an
outage which they would otherwise sit out.
"""

import socket
from collections.abc import Callable
from functools import partial

from runyard.errors import DatabaseUnavailable, RunyardError
from runyard.processes.heartbeat_file import seconds_since_heartbeat
from runyard.processes.web_probe import web_answers
from runyard.settings import settings
from runyard.store import database
from runyard.store.queries import fetch_all

# For how long the daemon's loops may stand still: longer than a statement of the database may take.
_DAEMON_SECONDS = 120
_DATABASE_SECONDS = 5.0
_UNKNOWN = "unknown: the database does not answer"


def worker_is_alive() -> str:
    """Say that a worker of this host has reported; raises `RunyardError` when none has."""
    host = socket.gethostname()
    with database.connection() as connection:
        rows = fetch_all(connection, "workers")
    silences = [row["silent"] for row in rows if row["host"] == host and not row["remote"]]
    if not any(silent < settings().lease_seconds for silent in silences):
        raise RunyardError(
            f"no worker of the host {host} has reported for {settings().lease_seconds:.0f} s:"
            " restart it"
        )
    return f"a worker of {host} reported {min(silences):.0f} s ago"


def daemon_is_alive() -> str:
    """Say that the daemon of this data folder is alive; raises `RunyardError` when it is not."""
    silent = seconds_since_heartbeat()
    if silent > _DAEMON_SECONDS:
        raise RunyardError(
            f"no daemon with the data folder {settings().data} has been alive for"
            f" {_DAEMON_SECONDS} s: restart it"
        )
    return f"the daemon was alive {silent:.0f} s ago"


def web_is_alive() -> str:
    """Say that the web process of this host answers; raises `RunyardError` when it does not."""
    if not web_answers(seconds=3.0):
        raise RunyardError(f"the web process does not answer on port {settings().port}: restart it")
    return "the web process answers"


def _unless_the_database_is_away(probe: Callable[[], str]) -> str:
    """What a probe says; that nothing is known while the database is away."""
    database.wait_for_connection(_DATABASE_SECONDS)
    try:
        with database.connection():
            pass
    except DatabaseUnavailable:
        return _UNKNOWN
    return probe()


PROBES: dict[str, Callable[[], str]] = {
    "daemon": partial(_unless_the_database_is_away, daemon_is_alive),
    "web": web_is_alive,
    "worker": partial(_unless_the_database_is_away, worker_is_alive),
}
