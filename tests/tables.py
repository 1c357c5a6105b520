"""Helpers for a test database: run a statement, begin with empty tables, take something away."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil
import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.sql import SQL, Identifier

from runyard.store import database
from runyard.store.queries import Row
from runyard.testing import empty_event_table
from tests.conftest import wait_until

# The listener reads no table, and stays.
_OTHER_SESSIONS = b"""
    SELECT pid, application_name, state, query FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
        AND backend_type = 'client backend' AND application_name <> 'runyard listener'
"""


def rows(statement: str, *parameters: object) -> list[Row]:
    """Run a statement and return its rows."""
    with database.connection() as connection:
        return list(connection.execute(statement.encode(), parameters).fetchall())


def empty_tables(*others: str) -> None:
    """Delete all events and everything that came of them, and empty the other tables given."""
    empty_event_table()
    if others:
        with database.connection() as connection:
            connection.execute(f"TRUNCATE {', '.join(others)} RESTART IDENTITY".encode())


@contextmanager
def table_away(url: str, table: str) -> Iterator[None]:
    """Rename a table of a database meanwhile, such as `runyard.steps`."""
    name = table.rpartition(".")[2]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"ALTER TABLE {table} RENAME TO {name}_away".encode())
        try:
            yield
        finally:
            connection.execute(f"ALTER TABLE {table}_away RENAME TO {name}".encode())


@contextmanager
def database_away(url: str) -> Iterator[None]:
    """Let nobody into a database meanwhile, and throw out who is in."""
    name = str(conninfo_to_dict(url)["dbname"])
    allow = SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
    with psycopg.connect(make_conninfo(url, dbname="postgres"), autocommit=True) as connection:
        connection.execute(allow.format(Identifier(name), SQL("false")))
        try:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity WHERE datname = %s",
                [name],
            )
            database.close_pool()
            yield
        finally:
            connection.execute(allow.format(Identifier(name), SQL("true")))


@contextmanager
def hanging_server(url: str) -> Iterator[None]:
    """Let a server on this machine keep all its sessions, but answer none."""
    with psycopg.connect(url) as connection:
        server = psutil.Process(connection.info.backend_pid).parent()
    assert server is not None
    stopped = [server]
    server.suspend()  # first: then it starts no other
    try:
        for session in server.children():
            with suppress(psutil.NoSuchProcess):  # it may be ending, as the one above is
                session.suspend()
                stopped.append(session)
        yield
    finally:
        for process in stopped:
            with suppress(psutil.NoSuchProcess):
                process.resume()


def wait_for_the_end_of_others(connection: psycopg.Connection[Any], seconds: float = 30.0) -> None:
    """Wait until a database has no other session, or fail with what they have done last."""
    with suppress(AssertionError):
        wait_until(lambda: not connection.execute(_OTHER_SESSIONS).fetchall(), seconds)
        return
    raise AssertionError(f"still there: {connection.execute(_OTHER_SESSIONS).fetchall()}")
