"""The databases of the benchmarks: reading rows, others beside the stack's, and switching."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg

from runyard.settings import settings
from runyard.store import database


def rows(statement: str, *parameters: object) -> list[dict[str, Any]]:
    """Run a statement on a connection of the pool; return its rows."""
    with database.connection() as connection:
        return [
            dict(row)
            for row in connection.execute(statement.encode(), parameters or None).fetchall()
        ]


def number(statement: str, *parameters: object) -> int:
    """The single number that a statement returns."""
    [row] = rows(statement, *parameters)
    [value] = row.values()
    return int(value)


@contextmanager
def other_databases(names: Sequence[str]) -> Iterator[dict[str, str]]:
    """Create databases beside the stack's, and drop them afterwards; gives their URLs by name."""
    server = database.database_url()

    def drop(connection: "psycopg.Connection[Any]", name: str) -> None:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())

    with psycopg.connect(server, autocommit=True) as connection:
        for name in names:
            drop(connection, name)
            connection.execute(f"CREATE DATABASE {name}".encode())
    try:
        yield {name: server.replace("/runyard?", f"/{name}?") for name in names}
    finally:
        with psycopg.connect(server, autocommit=True) as connection:
            for name in names:
                drop(connection, name)


@contextmanager
def using(url: str) -> Iterator[None]:
    """Let this process use another database for a while."""
    before = os.environ["DATABASE_URL"]
    use(url)
    try:
        yield
    finally:
        use(before)


def use(url: str) -> None:
    """Let this process use another database from now on."""
    database.close_pool()
    os.environ["DATABASE_URL"] = url
    settings.cache_clear()
