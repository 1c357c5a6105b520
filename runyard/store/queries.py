"""Reads the `.sql` files of this folder once, and runs their statements by name."""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import psycopg

Row = dict[str, Any]
Connection = psycopg.Connection[dict[str, object]]

_HEADING = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


@cache
def statements() -> Mapping[str, bytes]:
    """Every statement by its name."""
    by_name: dict[str, bytes] = {}
    for path in sorted(Path(__file__).parent.glob("*.sql")):
        # What precedes the first heading, then names and statements in turn.
        _, *pieces = _HEADING.split(path.read_text(encoding="utf-8"))
        for name, statement in zip(pieces[::2], pieces[1::2], strict=True):
            by_name[name] = statement.strip().encode()
    return by_name


def fetch_all(connection: Connection, name: str, /, **parameters: Any) -> list[Row]:
    """Run the statement called `name`; return its rows, none if it returns nothing."""
    cursor = connection.execute(statements()[name], parameters)
    return list(cursor.fetchall()) if cursor.description else []


def fetch_one(connection: Connection, name: str, /, **parameters: Any) -> Row | None:
    """Run the statement called `name`; return its first row, or None."""
    rows: Iterable[Row] = fetch_all(connection, name, **parameters)
    return next(iter(rows), None)
