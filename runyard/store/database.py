"""Where the database is, and one pool of connections for each process.

The URL is DATABASE_URL, or that of the embedded server in the project's data folder when one runs there. What every connection of
ours and of Dagster's needs is part of it: the schema in which Dagster's tables are, whatever schemas there are besides, and how soon a peer is
missed that has gone without a word.

DATABASE_URL may lead to a pooler that gives a connection for a transaction at a time, as PgBouncer does. No statement here is prepared, nor is
anything set for longer than a transaction, once RUNYARD_DIRECT_DATABASE_URL says so; migrations and LISTEN go to that one.

A pool does not live through a fork: a child that asks gets its own.
"""

import atexit
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import quote, unquote

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool, PoolTimeout

from runyard import clock
from runyard.errors import DatabaseBusy, DatabaseUnavailable
from runyard.settings import Settings, settings
from runyard.store.embedded import embedded_url, leads_here, same_socket

_connect_seconds = 10.0
_POOL_SIZE = 20
# What a deadlock has undone is done again after this: the transaction that it gave way to is over, or further on, by then.
GIVE_WAY_SECONDS = 0.1
# Answers that are about the statement: limits of PostgreSQL (54), locks and states (55), the statement's own time (57014).
_OF_THE_STATEMENT = ("54", "55", "57014")
# What PgBouncer and the proxy of Amazon RDS answer to a session's settings.
_NO_SETTINGS = ("unsupported startup parameter", "support command-line options")
DAGSTER_SCHEMA = "public"
# A host that has gone without a word is missed after 30 s by both sides; the kernel's own patience is two hours, and the server keeps all locks as long.
_KEEPALIVES = {
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "4",
    "tcp_user_timeout": "30000",
}
_SERVER_SETTINGS = {
    "search_path": DAGSTER_SCHEMA,
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "4",
    "tcp_user_timeout": "30000",
}
# As libpq reads it: what is before an @ may hold any sign but @ and /.
_URL = re.compile(r"postgres(?:ql)?://(?P<place>(?:[^@/]*@)?[^?]*)(?:\?(?P<query>.*))?", re.DOTALL)

Pool = ConnectionPool[psycopg.Connection[dict[str, object]]]

_lock = threading.Lock()
_pool: Pool | None = None
# A parent's pools, kept from the garbage collector: closing one in a child would end the parent's connections.
_inherited: list[Pool] = []


def database_url(of: Settings | None = None) -> str:
    """The URL of the database (`postgresql://...`), with what every connection needs; raises `DatabaseUnavailable` when there is none."""
    chosen = of or settings()
    own = chosen.database_url.get_secret_value() if chosen.database_url is not None else None
    if own is not None and not is_embedded(chosen):
        return _complete(own, pooled=is_pooled(chosen))
    url = embedded_url(chosen.postgres_dir)
    if url is None:
        raise DatabaseUnavailable(
            "no database: start the stack with `runyard up`, or set DATABASE_URL to a PostgreSQL server"
        )
    # What DATABASE_URL says itself (a role, a schema) holds for the embedded one, too; only its socket may have moved.
    return _complete(
        own if own is not None and same_socket(own, url) else url, pooled=is_pooled(chosen)
    )


def is_embedded(of: Settings) -> bool:
    """Whether the database is the embedded one, also where DATABASE_URL is what `runyard env` printed."""
    return of.database_url is None or leads_here(
        of.database_url.get_secret_value(), of.postgres_dir
    )


def direct_url(of: Settings | None = None) -> str:
    """The URL of the server itself, around a pooler: for what needs a session of its own. Raises `DatabaseUnavailable` when there is none."""
    chosen = of or settings()
    return (
        _complete(chosen.direct_database_url.get_secret_value())
        if chosen.direct_database_url is not None
        else database_url(chosen)
    )


def is_pooled(of: Settings | None = None) -> bool:
    """Whether DATABASE_URL leads to a pooler, so that a connection is a session for the length of a transaction only."""
    return (of or settings()).direct_database_url is not None


def _complete(url: str, *, pooled: bool = False) -> str:
    """A URL with the keepalives, and with the session's settings where there is a session; what it says itself of these stays."""
    found = _URL.fullmatch(url)
    if found is None:
        return url
    query = dict(part.partition("=")[::2] for part in (found["query"] or "").split("&") if part)
    query = _KEEPALIVES | query
    if not pooled:
        options = unquote(query.get("options", ""))
        missing = [
            f"-c {name}={value}"
            for name, value in _SERVER_SETTINGS.items()
            if f"{name}=" not in options
        ]
        query["options"] = quote(" ".join([*([options] if options else []), *missing]), safe="")
    return f"postgresql://{found['place']}?{'&'.join(f'{name}={value}' for name, value in query.items())}"


def leads_to_a_pooler(error: Exception) -> bool:
    """Whether a failed connection is the answer of a pooler that takes no session's settings."""
    return any(says in str(error) for says in _NO_SETTINGS)


def where(url: str) -> str:
    """Host, port and database of a URL, without user or password: fit for a log."""
    try:
        parts = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        return "a URL that cannot be read"
    host, port = str(parts.get("host") or "/"), parts.get("port")
    place = "local socket" if host.startswith("/") else host
    return f"{place}{f':{port}' if port else ''}/{parts.get('dbname', '')}"


def wait_for_connection(seconds: float) -> None:
    """How long a call of this process waits for a connection (10 s by default); set before the first one."""
    global _connect_seconds
    _connect_seconds = seconds


def pool() -> Pool:
    """The pool of this process, made at the first call. Connections are in autocommit mode, rows are dicts."""
    global _pool
    with _lock:
        if _pool is None:
            _pool = ConnectionPool(
                direct_url() if clock.frozen() else database_url(),
                min_size=0,
                max_size=_POOL_SIZE,
                timeout=_connect_seconds,
                open=True,
                max_idle=120,
                kwargs={
                    "row_factory": dict_row,
                    "autocommit": True,
                    "application_name": "runyard",
                    **statement_options(),
                },
                configure=_configure,
                check=_check,
            )
        return _pool


def statement_options() -> dict[str, Any]:
    """What psycopg has to be told of the database: behind a pooler nothing is prepared, for the next statement may be another session's."""
    return {"prepare_threshold": None} if is_pooled() else {}


def _configure(opened: psycopg.Connection[dict[str, object]]) -> None:
    """Let a new session read by indexes alone, where there is a session: it keeps the plans that it made while a table was small."""
    if not is_pooled():
        opened.execute("SET enable_seqscan = off")


def _check(opened: psycopg.Connection[dict[str, object]]) -> None:
    """Make sure that a connection is alive before it is handed out, and tell it the time where a test owns that."""
    taken = clock.frozen()
    if taken is None:
        ConnectionPool.check_connection(opened)
    else:
        opened.execute("SELECT set_config('runyard.clock', %s, false)", (taken.isoformat(),))


@contextmanager
def connection() -> Iterator[psycopg.Connection[dict[str, object]]]:
    """A pooled connection in autocommit mode.

    Raises `DatabaseUnavailable` when none can be had in time, or it is lost; `DatabaseBusy` where the database says that it cannot; and psycopg's
    errors for what is wrong with a statement.
    """
    try:
        with pool().connection() as opened:
            yield opened
    except PoolTimeout as error:
        raise _away(error) from error
    except psycopg.OperationalError as error:
        if is_away(error):
            raise _away(error) from error
        if error.sqlstate is not None and error.sqlstate.startswith(_OF_THE_STATEMENT):
            raise
        raise DatabaseBusy(
            f"the database cannot do this now: {error.diag.message_primary}"
        ) from error


def is_away(error: psycopg.OperationalError) -> bool:
    """Whether an error says that no database is there, rather than being the answer of one that is (PostgreSQL's manual, appendix A: 08, 57P)."""
    return error.sqlstate is None or error.sqlstate.startswith(("08", "57P"))


def _away(error: Exception) -> DatabaseUnavailable:
    return DatabaseUnavailable(
        f"the database does not answer ({type(error).__name__}): check that it runs, with `runyard doctor`"
    )


@contextmanager
def transaction(
    lock_seconds: float | None = None,
) -> Iterator[psycopg.Connection[dict[str, object]]]:
    """A pooled connection in a transaction that commits when the block ends well.

    With `lock_seconds` it waits no longer than that for what another transaction has locked; psycopg's LockNotAvailable then.
    """
    with connection() as opened, opened.transaction():
        if lock_seconds is not None:
            opened.execute(f"SET LOCAL lock_timeout = '{lock_seconds}s'".encode())
        yield opened


@contextmanager
def searching(most_seconds: float) -> Iterator[psycopg.Connection[dict[str, object]]]:
    """A pooled connection for statements whose filters may be left out, each for some seconds at most; psycopg's QueryCanceled then.

    A plan that must do for every filter would read by time where it should by name: each statement gets a plan of its own.
    """
    with transaction() as opened:
        opened.execute(
            f"SET LOCAL statement_timeout = '{most_seconds}s'; SET LOCAL plan_cache_mode = force_custom_plan".encode()
        )
        yield opened


def close_pool() -> None:
    """Close this process's pool; the next call of `pool()` makes a new one."""
    global _pool
    with _lock:
        found, _pool = _pool, None
    if found is not None:
        with suppress(Exception):
            found.close(timeout=2)


def _after_fork() -> None:
    """A child begins without a pool, and with a lock that no thread of its parent can have held."""
    global _lock, _pool
    _lock = threading.Lock()
    if _pool is not None:
        _inherited.append(_pool)
        _pool = None


os.register_at_fork(after_in_child=_after_fork)
atexit.register(close_pool)
