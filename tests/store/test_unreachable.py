"""What is said when there is no connection to the database, and how soon there is one again."""

import logging
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg_pool import ConnectionPool, PoolTimeout

from runyard.errors import DatabaseUnavailable
from runyard.processes.checks import checks
from runyard.store import database
from runyard.store.unreachable import why_no_connection
from tests.conftest import wait_until
from tests.tables import database_away, rows

# Seconds: long enough for a first attempt to be refused.
BRIEFLY = 2.0

# What PostgreSQL, PgBouncer and libpq say, and what of the advice.
TEXTS = [
    ('FATAL:  password authentication failed for user "app"', "check the user and the password"),
    ("fe_sendauth: no password supplied", "add the password"),
    ('FATAL:  no pg_hba.conf entry for host "10.0.0.7", user "app"', "allow that in pg_hba.conf"),
    ('FATAL:  role "app" is not permitted to log in', "give the role LOGIN"),
    ('FATAL:  Peer authentication failed for user "app"', "check the user and the password"),
    ("FATAL:  no such user", "check the user and the password"),
    ('FATAL:  permission denied for database "app"', "grant the role CONNECT"),
    ('FATAL:  database "app" does not exist', "create it"),
    ("FATAL:  sorry, too many clients already", "raise max_connections"),
    ('FATAL:  too many connections for role "app"', "raise max_connections"),
    ("FATAL:  remaining connection slots are reserved for roles", "raise max_connections"),
    ("FATAL:  the database system is starting up", "wait until it has started"),
    ("FATAL:  the database system is in recovery mode", "wait until it has started"),
    ("FATAL:  the database system is shutting down", "start it again"),
    ("SSL error: certificate verify failed", "check sslmode and sslrootcert"),
    ("server does not support SSL, but SSL was required", "check sslmode in DATABASE_URL, and"),
]


@pytest.mark.parametrize(("text", "advice"), TEXTS)
def test_a_text_of_the_server_is_shown_with_what_to_do(text: str, advice: str) -> None:
    error = psycopg.OperationalError(f'connection to server at "db", port 5432 failed: {text}\n')
    assert f"({text.removeprefix('FATAL:  ')}): {advice}" in why_no_connection(error)


def refused(store_url: str, **changes: str) -> str:
    with pytest.raises(psycopg.OperationalError) as caught:
        psycopg.connect(store_url, **changes, connect_timeout=2)
    return why_no_connection(caught.value)


def test_an_unknown_database_is_no_dead_server(store_url: str) -> None:
    says = refused(store_url, dbname="unknown")
    assert 'refuses the connection (database "unknown" does not exist): create it' in says


def test_an_unknown_role_is_no_dead_server(store_url: str) -> None:
    assert 'refuses the connection (role "unknown"' in refused(store_url, user="unknown")


def test_a_port_without_a_server_asks_whether_it_runs(store_url: str) -> None:
    says = refused(store_url, host="127.0.0.1", port="9")
    assert "does not answer (Connection refused): check DATABASE_URL" in says


def test_an_unknown_host_is_named(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(*_: object, **__: object) -> object:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    says = refused(store_url, host="db.invalid")
    assert "failed to resolve host 'db.invalid'" in says
    assert "check the host in DATABASE_URL" in says


@pytest.fixture
def closed_database(store_url: str) -> Iterator[None]:
    """The database refuses every connection."""
    with database_away(store_url):
        yield
    database.close_pool()


@pytest.fixture
def brief_waits() -> Iterator[None]:
    """Wait briefly for a connection."""
    database.close_pool()
    database.wait_for_connection(BRIEFLY)
    yield
    database.wait_for_connection(10)
    database.close_pool()


@pytest.mark.usefixtures("brief_waits", "closed_database")
def test_the_pool_gives_the_reason_too() -> None:
    with pytest.raises(DatabaseUnavailable, match="not currently accepting connections"):
        rows("SELECT 1")


@pytest.fixture
def pool_of_one(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A pool with one connection, which is soon waited for in vain."""
    monkeypatch.setattr(database, "_POOL_SIZE", 1)
    database.close_pool()
    yield
    database.close_pool()


@pytest.mark.usefixtures("pool_of_one", "brief_waits")
def test_an_earlier_failure_is_no_reason_for_a_pool_that_is_all_in_use(store_url: str) -> None:
    with database.connection():
        with pytest.raises(psycopg.OperationalError):
            database._Session.connect(make_conninfo(store_url, dbname="unknown"))
        failed_at = time.monotonic()
        wait_until(lambda: time.monotonic() - failed_at > BRIEFLY)
        with pytest.raises(DatabaseUnavailable, match="none of this process's 1 connections"):
            rows("SELECT 1")


@pytest.mark.usefixtures("closed_database")
def test_the_doctor_gives_the_reason_once(caplog: pytest.LogCaptureFixture) -> None:
    says = {check.name: check.says for check in checks()}
    assert "not currently accepting connections" in says["database"]
    assert [record for record in caplog.records if record.name == "psycopg.pool"] == []


def warnings_while_waiting(pool: ConnectionPool, caplog: pytest.LogCaptureFixture) -> list[str]:
    """What is logged while a pool gets no connection."""
    with pytest.raises(PoolTimeout):
        pool.getconn(timeout=BRIEFLY)
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.usefixtures("brief_waits", "closed_database")
def test_our_pool_does_not_warn_at_every_attempt(caplog: pytest.LogCaptureFixture) -> None:
    assert warnings_while_waiting(database.pool(), caplog) == []


@pytest.mark.usefixtures("closed_database")
def test_a_pool_of_the_application_warns_as_ever(
    store_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with ConnectionPool(store_url, min_size=0, max_size=1, name="the shop") as pool:
        warnings = warnings_while_waiting(pool, caplog)
    assert warnings[0].startswith("error connecting in 'the shop': ")


def test_a_thread_that_waits_for_a_connection_gets_one_soon_after_an_outage(
    store_url: str,
) -> None:
    """The pool would double its waits: the seventh attempt would come half a minute later."""
    database.wait_for_connection(60)
    try:
        with ThreadPoolExecutor(1) as threads:
            with database_away(store_url):
                waiting = threads.submit(rows, "SELECT 1 AS one")
                wait_until(lambda: _failed_attempts() >= 6, 20)
            assert waiting.result(15) == [{"one": 1}]
    finally:
        database.wait_for_connection(10)
        database.close_pool()


def _failed_attempts() -> int:
    return database.pool().get_stats().get("connections_errors", 0)
