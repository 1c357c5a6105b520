"""Helpers for the tables of a test database: run a statement, begin with empty tables."""

from contextlib import suppress
from typing import Any

import psycopg

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


def wait_for_the_end_of_others(connection: psycopg.Connection[Any], seconds: float = 30.0) -> None:
    """Wait until a database has no other session, or fail with what they have done last."""
    with suppress(AssertionError):
        wait_until(lambda: not connection.execute(_OTHER_SESSIONS).fetchall(), seconds)
        return
    raise AssertionError(f"still there: {connection.execute(_OTHER_SESSIONS).fetchall()}")
