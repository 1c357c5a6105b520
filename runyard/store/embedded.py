"""The PostgreSQL server that ships with the project.

It listens on no port, only on a Unix socket in its data folder, or in a folder with a shorter path
that the data folder links to. Only the project's user and root can enter either. When root starts
it, it runs as the user `pgserver`, who owns its files.
"""

import fcntl
import os
import pwd
import shlex
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg
from psycopg.conninfo import conninfo_to_dict

from runyard.errors import DatabaseUnavailable, RunyardError
from runyard.settings import ROOT_DATABASES, Settings
from runyard.store.embedded_access import (
    DATABASE,
    ROLE,
    SUPERUSER,
    hand_over,
    make_database,
    write_access,
)
from runyard.store.embedded_programs import (
    MAJOR,
    SERVER_USER,
    ProgramFailed,
    can_reach,
    check_roots,
    copy_as_server,
    make_above,
    run_program,
    server_uid,
)
from runyard.store.embedded_tuning import tuning
from runyard.store.private_folders import (
    check_above,
    delete_short_folder,
    fits_a_socket,
    private_folder,
    short_folder,
    user_name,
)

_PORT = "5432"  # not a port: a part of the socket's name
_SETTING = "RUNYARD_POSTGRES_DIR"
_SOCKETS = "runyard_sockets"
_READY_SECONDS = 60
_STOP_SECONDS = 60.0
_DYING_SECONDS = 5.0
_ALIVE_SECONDS, _LOOK_SECONDS = 0.5, 0.1
_INITDB = ("--encoding=utf8", "--no-instructions", "--pgdata=.")
_PG_CTL = ("--silent", "--wait", f"--timeout={_READY_SECONDS}", "--pgdata=.", "--log=log")


@dataclass(frozen=True)
class _Running:
    """A running server: its main process, the folder of its socket, and its user."""

    process: psutil.Process
    sockets: Path
    owner: int


def embedded_url(postgres_dir: Path, role: str = ROLE, database: str = DATABASE) -> str | None:
    """The URL of the server in this data folder, None if it is not running.

    Raises `DatabaseUnavailable` if this user may not look into the folder.
    """
    server = _running(postgres_dir)
    if server is None:
        return None
    name, sockets = quote(database, safe=""), quote(str(server.sockets))
    peer = _required_peer(server.owner)
    return f"postgresql://{role}@/{name}?host={sockets}&port={_PORT}{peer}"


def leads_here(url: str, postgres_dir: Path) -> bool:
    """Whether a URL (or other libpq connection string) is that of the database in this data folder.

    The server need not be running.
    """
    try:
        parts = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        return False
    places = {os.path.realpath(postgres_dir), os.path.realpath(postgres_dir / _SOCKETS)}
    host = str(parts.get("host", ""))
    return (
        parts.get("dbname") == DATABASE
        and host.startswith("/")
        and os.path.realpath(host) in places
    )


def same_socket(url: str, other: str) -> bool:
    """Whether two URLs lead to a socket in the same folder."""
    hosts = [str(conninfo_to_dict(address).get("host", "")) for address in (url, other)]
    return os.path.realpath(hosts[0]) == os.path.realpath(hosts[1])


def start_embedded(postgres_dir: Path, formerly: Path | None = None) -> str:
    """Start the server (created by the first start) unless it is running already; return its URL.

    It outlives this process: `stop_embedded` stops it. What an older version left open to others is
    closed, and its data is handed over to Runyard's role. `formerly` is where older versions kept
    root's data, which is moved.

    Raises `RunyardError` if the folder belongs to somebody else, or the server does not start.
    """
    check_above(postgres_dir, _SETTING, server_uid())
    make_above(postgres_dir)
    if os.geteuid() == 0:
        if postgres_dir.parent == ROOT_DATABASES:
            check_roots(ROOT_DATABASES)
        if formerly is not None:
            _move(formerly, postgres_dir)
    postgres_dir = private_folder(postgres_dir, _SETTING, server_uid())
    with _locked(postgres_dir):
        _start(postgres_dir)
        _prepare(postgres_dir)
    url = embedded_url(postgres_dir)
    if url is None:
        raise DatabaseUnavailable(
            f"the embedded PostgreSQL has stopped: see {postgres_dir / 'log'}"
        )
    return url


def stop_embedded(postgres_dir: Path) -> None:
    """Stop the server of this data folder, if it is running; open transactions are rolled back."""
    # PostgreSQL's fast and immediate shutdown, and at last a kill.
    for number, seconds in (
        (signal.SIGINT, _STOP_SECONDS),
        (signal.SIGQUIT, _DYING_SECONDS),
        (signal.SIGKILL, _DYING_SECONDS),
    ):
        server = _running(postgres_dir)
        if server is None:
            return
        with suppress(psutil.NoSuchProcess):
            server.process.send_signal(number)
        deadline = time.monotonic() + seconds
        while _running(postgres_dir) is not None and time.monotonic() < deadline:
            time.sleep(0.02)


def delete_embedded(postgres_dir: Path) -> None:
    """Stop the server of this data folder, if it is running, and delete its data.

    A folder without a database in it is left alone, unless it is empty.
    """
    stop_embedded(postgres_dir)
    if (postgres_dir / "PG_VERSION").exists():
        delete_short_folder(postgres_dir / _SOCKETS, server_uid())
        shutil.rmtree(postgres_dir)
    with suppress(OSError):
        postgres_dir.rmdir()


def serve_embedded(postgres_dir: Path, formerly: Path | None = None) -> int:
    """Keep the server up until SIGTERM or SIGINT, then stop it; return 1 if it dies by itself."""
    # Not an Event, whose lock the code that a signal interrupts may hold.
    signals_received: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: signals_received.append(number))
    start_embedded(postgres_dir, formerly)
    print("ready", flush=True)
    looked_at = time.monotonic()
    while not signals_received:
        time.sleep(_LOOK_SECONDS)
        if time.monotonic() - looked_at < _ALIVE_SECONDS:
            continue
        looked_at = time.monotonic()
        if embedded_url(postgres_dir) is None:
            print("the server has died; starting it again", flush=True)
            return 1
    stop_embedded(postgres_dir)
    return 0


def why_elsewhere(of: Settings) -> str | None:
    """Where the embedded database is and why, as text, unless it is in the data folder."""
    if of.database_url is not None or of.postgres_dir.is_relative_to(of.data):
        return None
    if os.geteuid() != 0:
        return f"the database is in {of.postgres_dir} ({_SETTING})"
    hint = "" if of.postgres_folder else f"; {_SETTING} puts it elsewhere"
    return (
        f"the database is in {of.postgres_dir}: PostgreSQL refuses to run as root, so it runs as"
        f" {SERVER_USER}, which cannot enter root's folders{hint}"
    )


def _required_peer(owner: int) -> str:
    """The parameter by which clients check that the server behind a socket runs as its owner.

    Empty if that user has no name, by which libpq checks.
    """
    try:
        return f"&requirepeer={quote(pwd.getpwuid(owner).pw_name, safe='')}"
    except KeyError:
        return ""


def _running(postgres_dir: Path) -> _Running | None:
    try:
        owner = postgres_dir.stat().st_uid
        lines = (postgres_dir / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        process = psutil.Process(int(lines[0]))
        # The file outlives a crash, and its process id may have been reused since.
        ours = (
            process.uids().real == owner
            and process.name() == "postgres"
            and process.status() != psutil.STATUS_ZOMBIE
        )
        return _Running(process, Path(lines[4]), owner) if ours and len(lines) >= 8 else None
    except PermissionError as error:
        folder = error.filename or postgres_dir
        raise DatabaseUnavailable(
            f"{folder} is closed to {user_name(os.geteuid())}: run this as the user who started the"
            " stack, or set DATABASE_URL"
        ) from None
    except (FileNotFoundError, NotADirectoryError, ValueError, IndexError, psutil.Error):
        return None  # it is not running, or the file is only half written


def _start(postgres_dir: Path) -> None:
    """Start the server with a safe configuration, unless it is running with it already."""
    if os.geteuid() == 0 and _running(postgres_dir) is None and not can_reach(postgres_dir):
        raise RunyardError(
            f"the user {SERVER_USER}, as which PostgreSQL runs for root, cannot reach"
            f" {postgres_dir}: set {_SETTING} to a folder that it can reach, such as one in /srv"
        )
    if (postgres_dir / "PG_VERSION").exists():
        _check_version(postgres_dir)
    else:
        # Nobody else may connect, from the first start on.
        authentication = ("--auth-local=peer", "--auth-host=reject", f"--username={SUPERUSER}")
        _run(postgres_dir, "initdb", *authentication, *_INITDB)
    changed = write_access(postgres_dir)
    sockets = _sockets(postgres_dir)
    server = _running(postgres_dir)
    if server is not None and server.sockets == sockets:
        if changed:
            server.process.send_signal(signal.SIGHUP)
        return
    if server is not None:
        stop_embedded(postgres_dir)
    _run(postgres_dir, "pg_ctl", "start", *_PG_CTL, f"--options={_options(sockets)}")


def _check_version(postgres_dir: Path) -> None:
    """Raise `RunyardError` if a stopped server's files are those of another major version."""
    version = (postgres_dir / "PG_VERSION").read_text(encoding="utf-8").strip()
    if version != MAJOR and _running(postgres_dir) is None:
        raise RunyardError(
            f"{postgres_dir} has a database of PostgreSQL {version}, and this version of Runyard"
            f" comes with PostgreSQL {MAJOR}: install the earlier version again, and dump it with"
            " `runyard pg_dump`; move the folder away, and restore the dump with this version"
        )


def _sockets(postgres_dir: Path) -> Path:
    """The folder of the server's socket: the data folder, unless its path is unsuitable.

    It may be too long, or PostgreSQL would read it as a list.
    """
    read_as_list = {",", '"'} & set(str(postgres_dir))
    if fits_a_socket(postgres_dir / f".s.PGSQL.{_PORT}") and not read_as_list:
        return postgres_dir
    return short_folder(postgres_dir / _SOCKETS, server_uid())


def _options(sockets: Path) -> str:
    """The server's options, quoted for the shell by which pg_ctl starts it."""
    options = {
        "listen_addresses": "",
        "port": _PORT,
        "unix_socket_directories": str(sockets),
        "unix_socket_permissions": "0700",
        # These are reserved for superusers. Runyard's role is not one, and is to have them all.
        "superuser_reserved_connections": "0",
        **tuning(),
    }
    return " ".join(f"-c {name}={shlex.quote(value)}" for name, value in options.items())


def _run(postgres_dir: Path, name: str, *arguments: str) -> None:
    # A server that was killed a moment ago may still have processes, and has left its locks.
    locks = (postgres_dir / "postmaster.pid", postgres_dir / f".s.PGSQL.{_PORT}.lock")
    deadline = time.monotonic() + (_DYING_SECONDS if any(lock.exists() for lock in locks) else 0)
    while True:
        try:
            run_program(name, *arguments, folder=postgres_dir)
            return
        except ProgramFailed as error:
            if time.monotonic() > deadline:
                log = postgres_dir / "log"
                reason = " ".join([*str(error).splitlines()[-1:], *_last_line(log)])
                raise DatabaseUnavailable(
                    f"the embedded PostgreSQL does not start: {reason} (more in {log})"
                ) from None
            time.sleep(0.1)


def _last_line(log: Path) -> list[str]:
    with suppress(OSError):
        return log.read_text(encoding="utf-8", errors="replace").splitlines()[-1:]
    return []


def _prepare(postgres_dir: Path) -> None:
    """Create the role and database if missing; hand over what an older version made without."""
    with _as_superuser(postgres_dir, SUPERUSER) as connection:
        owned = make_database(connection)
    for database in owned:
        with _as_superuser(postgres_dir, database) as connection:
            hand_over(connection, database)


@contextmanager
def _as_superuser(
    postgres_dir: Path, database: str
) -> "Iterator[psycopg.Connection[tuple[object, ...]]]":
    deadline = time.monotonic() + _DYING_SECONDS
    while True:
        try:
            url = embedded_url(postgres_dir, SUPERUSER, database)
            if url is None:
                # A server that was killed a moment ago still had its process when we looked.
                _start(postgres_dir)
                raise psycopg.OperationalError("it has stopped")
            opened = psycopg.connect(url, autocommit=True)
            break
        except psycopg.OperationalError as error:
            if time.monotonic() > deadline:
                raise DatabaseUnavailable(
                    f"the embedded PostgreSQL does not answer ({error}): see {postgres_dir / 'log'}"
                ) from error
            time.sleep(0.1)
    with opened:
        yield opened


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process at a time create or start the server of a folder."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield
        fcntl.flock(opened, fcntl.LOCK_UN)
    finally:
        os.close(opened)


def _move(formerly: Path, postgres_dir: Path) -> None:
    """Move the data that an older version kept in root's data folder, unless there is newer."""
    if (
        formerly == postgres_dir
        or formerly.is_symlink()
        or not (formerly / "PG_VERSION").exists()
        or formerly.stat().st_uid != server_uid()
    ):
        return
    if postgres_dir.exists() and any(postgres_dir.iterdir()):
        return
    stop_embedded(formerly)
    with suppress(FileNotFoundError):
        postgres_dir.rmdir()
    try:
        formerly.rename(postgres_dir)
    except OSError:  # on another file system
        staged = postgres_dir.with_name(f"{postgres_dir.name}.moving")
        shutil.rmtree(staged, ignore_errors=True)
        private_folder(staged, _SETTING, server_uid())
        try:
            copy_as_server(formerly, staged)
        except ProgramFailed as error:
            raise RunyardError(
                f"{formerly} cannot be moved to {postgres_dir} ({error}): move it by hand, or set"
                f" {_SETTING}"
            ) from None
        staged.rename(postgres_dir)
        shutil.rmtree(formerly)
