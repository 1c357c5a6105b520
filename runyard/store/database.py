"""Where the database is, and one pool of connections for each process.

The URL is DATABASE_URL, or that of the embedded server if one runs in the project's data folder. It
includes what every connection needs, ours and Dagster's: the schema of Dagster's tables, whatever
other schemas exist, and how soon a peer that silently disappeared is noticed.

DATABASE_URL may lead to a pooler that assigns connections per transaction, such as PgBouncer. If
RUNYARD_DIRECT_DATABASE_URL is set, no statement is prepared and nothing is set for longer than a
transaction; migrations and LISTEN use the direct URL.

A pool does not survive a fork: a child process gets its own.
"""

import atexit
import logging
import math
import os
import re
import select
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol, Self
from urllib.parse import quote, unquote
from weakref import WeakSet

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool, PoolTimeout

from runyard import clock
from runyard.errors import DatabaseBusy, DatabaseUnavailable
from runyard.settings import Settings, settings
from runyard.store.embedded import embedded_url, leads_here, same_socket
from runyard.store.unreachable import why_no_connection

_connect_seconds = 10.0
_POOL_SIZE = 20
_POOL_NAME = "runyard's pool"
_OF_EVERY_ATTEMPT = ("error connecting", "reconnection attempt")
_RECONNECT_SECONDS = 1.0
# The delay before a transaction that was rolled back by a deadlock is retried: by then the other
# one is over, or has got further.
GIVE_WAY_SECONDS = 0.1
# Errors about the statement: PostgreSQL's limits (54), locks and states (55), its timeout (57014).
_OF_THE_STATEMENT = ("54", "55", "57014")
DAGSTER_SCHEMA = "public"
# Both sides notice after 30 s that the other host has disappeared; the kernel's default is two
# hours, during which the server keeps all locks. A host that never answers is given up after 10 s;
# the kernel tries for two minutes, and the pool would go on as long after it is back.
_TIMEOUTS = {
    "connect_timeout": "10",
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
# As libpq reads it: any character but @ and / may come before the @.
_URL = re.compile(r"postgres(?:ql)?://(?P<place>(?:[^@/]*@)?[^?]*)(?:\?(?P<query>.*))?", re.DOTALL)

Session = psycopg.Connection[dict[str, object]]


class _Session(Session):
    """A session that remembers why the last one could not be opened, for `DatabaseUnavailable`."""

    _failed_at = -math.inf
    _why_not = ""

    @classmethod
    def connect(cls, conninfo: str = "", **options: Any) -> Self:
        try:
            opened = super().connect(conninfo, **options)
        except psycopg.OperationalError as error:
            _Session._why_not, _Session._failed_at = why_no_connection(error), time.monotonic()
            raise
        _Session._failed_at = -math.inf
        return opened

    @staticmethod
    def why_not(seconds: float) -> str:
        """Why none could be opened within these last seconds; empty when that was not tried.

        A pool that once could not grow goes on with the sessions that it has: that all of them are
        in use later has another reason.
        """
        return _Session._why_not if time.monotonic() - _Session._failed_at <= seconds else ""


Pool = ConnectionPool[Session]


def _is_worth_logging(record: logging.LogRecord) -> bool:
    """Whether a warning is not one of our pool at every attempt: `DatabaseUnavailable` says it.

    The warnings of an application's own pools, in the same process, are its own affair.
    """
    is_ours = isinstance(record.args, tuple) and record.args[:1] == (_POOL_NAME,)
    return not (is_ours and str(record.msg).startswith(_OF_EVERY_ATTEMPT))


logging.getLogger("psycopg.pool").addFilter(_is_worth_logging)

_lock = threading.Lock()
_pool: Pool | None = None
# A parent's pools, kept from the garbage collector: closing one in a child would close the parent's
# connections.
_inherited: list[Pool] = []
# The sessions in which a test has set the clock.
_frozen: WeakSet[Session] = WeakSet()


def database_url(of: Settings | None = None) -> str:
    """The URL of the database (`postgresql://...`), with what every connection needs.

    Raises `DatabaseUnavailable` if there is none.
    """
    chosen = of or settings()
    own = chosen.database_url.get_secret_value() if chosen.database_url is not None else None
    if own is not None and not is_embedded(chosen):
        return _complete(own, pooled=is_pooled(chosen))
    url = embedded_url(chosen.postgres_dir)
    if url is None:
        raise DatabaseUnavailable(
            "no database: start the stack with `runyard up`, or set DATABASE_URL to a PostgreSQL"
            " server"
        )
    # A role or schema in DATABASE_URL applies to the embedded server too, but its socket may have
    # moved since.
    if own is not None and same_socket(own, url):
        url = own
    return _complete(url, pooled=is_pooled(chosen))


def is_embedded(of: Settings) -> bool:
    """Whether the database is the embedded one, even if DATABASE_URL is set by `runyard env`."""
    if of.database_url is None:
        return True
    return leads_here(of.database_url.get_secret_value(), of.postgres_dir)


def direct_url(of: Settings | None = None) -> str:
    """The URL of the server itself, bypassing a pooler: for what needs a session of its own.

    Raises `DatabaseUnavailable` if there is none.
    """
    chosen = of or settings()
    if chosen.direct_database_url is None:
        return database_url(chosen)
    return _complete(chosen.direct_database_url.get_secret_value())


def is_pooled(of: Settings | None = None) -> bool:
    """Whether DATABASE_URL leads to a pooler, so that a session lasts for one transaction only."""
    return (of or settings()).direct_database_url is not None


def _complete(url: str, *, pooled: bool = False) -> str:
    """A URL with timeouts and, unless pooled, session settings; those it has already stay."""
    match = _URL.fullmatch(url)
    if match is None:
        return url
    own = dict(part.partition("=")[::2] for part in (match["query"] or "").split("&") if part)
    query = _TIMEOUTS | own
    if not pooled:
        options = unquote(query.get("options", ""))
        missing = [
            f"-c {name}={value}"
            for name, value in _SERVER_SETTINGS.items()
            if f"{name}=" not in options
        ]
        query["options"] = quote(" ".join([*([options] if options else []), *missing]), safe="")
    parameters = "&".join(f"{name}={value}" for name, value in query.items())
    return f"postgresql://{match['place']}?{parameters}"


def where(url: str) -> str:
    """Host, port and database of a URL, without user and password: safe to log."""
    try:
        parts = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        return "a URL that cannot be read"
    host, port = str(parts.get("host") or "/"), parts.get("port")
    place = "local socket" if host.startswith("/") else host
    return f"{place}{f':{port}' if port else ''}/{parts.get('dbname', '')}"


def wait_for_connection(seconds: float) -> None:
    """Set how long calls of this process wait for a connection (10 s); before the first one."""
    global _connect_seconds
    _connect_seconds = seconds


def pool() -> Pool:
    """This process's pool, created by the first call: autocommit mode, rows as dicts."""
    global _pool
    with _lock:
        if _pool is None:
            _pool = ConnectionPool(
                direct_url() if clock.frozen() else database_url(),
                min_size=0,
                max_size=_POOL_SIZE,
                timeout=_connect_seconds,
                name=_POOL_NAME,
                open=True,
                max_idle=120,
                # The pool doubles the wait before each attempt until it gives up. With a longer
                # limit it would connect seconds after an outage has ended.
                reconnect_timeout=_RECONNECT_SECONDS,
                reconnect_failed=_connect_again,
                connection_class=_Session,
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


@dataclass(frozen=True)
class PoolStats:
    """How many connections a pool has and may have, and how many threads wait for one."""

    idle: int
    used: int
    allowed: int
    waiting: int


def pool_stats() -> PoolStats:
    """The state of this process's pool."""
    stats = pool().get_stats()
    size, idle = stats.get("pool_size", 0), stats.get("pool_available", 0)
    return PoolStats(idle, size - idle, _POOL_SIZE, stats.get("requests_waiting", 0))


def _connect_again(pool: Pool) -> None:
    """Let a pool that has given up try again while a thread waits for a connection."""
    if pool.get_stats().get("requests_waiting"):
        pool.check()


def statement_options() -> dict[str, Any]:
    """Options for psycopg: behind a pooler nothing is prepared, as the next session may differ."""
    return {"prepare_threshold": None} if is_pooled() else {}


def _configure(opened: Session) -> None:
    """Make a new session read by indexes only, as it keeps the plans it made for small tables.

    Behind a pooler there is no session to configure.
    """
    if not is_pooled():
        opened.execute("SET enable_seqscan = off")


class HasSocket(Protocol):
    """A connection of any driver."""

    def fileno(self) -> int:
        """The file descriptor of its socket."""
        ...


def may_have_ended(idle: HasSocket) -> bool:
    """Whether the server may have ended a session in which nothing runs, without asking it.

    A server that ends a session sends something, if only the end of the stream. It sends other
    things unasked too, such as a changed setting, so True is no proof.
    """
    unread = select.poll()
    unread.register(idle.fileno(), select.POLLIN)
    return bool(unread.poll(0))


def _check(opened: Session) -> None:
    """Check that a connection is alive before it is used; in a test, set its clock, or reset it.

    The server is asked only where it may have ended the session: asking always would be a round
    trip before every statement.
    """
    taken = clock.frozen()
    if taken is None and opened not in _frozen:
        if may_have_ended(opened):
            ConnectionPool.check_connection(opened)
        return
    text = "" if taken is None else taken.isoformat()
    opened.execute("SELECT set_config('runyard.clock', %s, false)", (text,))
    if taken is None:
        _frozen.discard(opened)
    else:
        _frozen.add(opened)


@contextmanager
def connection() -> Iterator[Session]:
    """A pooled connection in autocommit mode.

    Raises `DatabaseUnavailable` if none is available in time, or it is lost; `DatabaseBusy` if the
    database reports that it cannot do the work now; and psycopg's errors for a wrong statement.
    """
    try:
        with pool().connection() as opened:
            yield opened
    except PoolTimeout as error:
        raise _away(error) from error
    except psycopg.OperationalError as error:
        if is_away(error):
            raise _away(error, lost=True) from error
        if error.sqlstate is not None and error.sqlstate.startswith(_OF_THE_STATEMENT):
            raise
        raise DatabaseBusy(
            f"the database cannot do this now: {error.diag.message_primary}"
        ) from error


def is_away(error: psycopg.OperationalError) -> bool:
    """Whether an error means that there is no database, rather than being its answer.

    See appendix A of PostgreSQL's manual: classes 08 and 57P.
    """
    return error.sqlstate is None or error.sqlstate.startswith(("08", "57P"))


def _away(error: Exception, *, lost: bool = False) -> DatabaseUnavailable:
    reason = "" if lost else _Session.why_not(_connect_seconds) or _all_in_use()
    if reason:
        return DatabaseUnavailable(reason)
    return DatabaseUnavailable(
        f"the database does not answer ({type(error).__name__}): check that it runs, with"
        " `runyard doctor`",
        lost=lost,
    )


def _all_in_use() -> str:
    """That the pool has no connection to spare; empty when it may open more."""
    if pool().get_stats()["pool_size"] < _POOL_SIZE:
        return ""
    return (
        f"none of this process's {_POOL_SIZE} connections to the database was free within"
        f" {_connect_seconds:g} s: check with `runyard doctor` that it answers, and see in"
        " pg_stat_activity which statements take long or wait for a lock"
    )


@contextmanager
def transaction(
    lock_seconds: float | None = None,
) -> Iterator[Session]:
    """A pooled connection in a transaction that commits when the block ends without an error.

    With `lock_seconds` it waits no longer than that for what another transaction has locked, then
    raises psycopg's `LockNotAvailable`.
    """
    with connection() as opened, opened.transaction():
        if lock_seconds is not None:
            opened.execute(f"SET LOCAL lock_timeout = '{lock_seconds}s'".encode())
        yield opened


@contextmanager
def searching(most_seconds: float) -> Iterator[Session]:
    """A pooled connection for statements with optional filters, each limited to some seconds.

    psycopg raises `QueryCanceled` after that. Each execution gets its own plan: one plan for all
    combinations of filters would, for example, read by time where it should read by name.
    """
    with transaction() as opened:
        limits = (
            f"SET LOCAL statement_timeout = '{most_seconds}s';"
            "SET LOCAL plan_cache_mode = force_custom_plan"
        )
        opened.execute(limits.encode())
        yield opened


def close_pool() -> None:
    """Close this process's pool; the next call of `pool()` creates a new one."""
    global _pool
    with _lock:
        closing, _pool = _pool, None
    if closing is not None:
        with suppress(Exception):
            closing.close(timeout=2)


def _after_fork() -> None:
    """Start a child without a pool, and with a lock that no thread of its parent can be holding."""
    global _lock, _pool
    _lock = threading.Lock()
    if _pool is not None:
        _inherited.append(_pool)
        _pool = None


os.register_at_fork(after_in_child=_after_fork)
atexit.register(close_pool)
