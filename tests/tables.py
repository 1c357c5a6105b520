"""Helpers for the tables of a test database: run a statement, begin with empty tables."""

from runyard.store import database
from runyard.store.queries import Row
from runyard.testing import empty_event_table


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
