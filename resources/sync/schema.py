"""A source's tables in this database: their columns, and the changes that a load makes to them."""

from collections.abc import Mapping
from typing import Any

from psycopg import (
    Connection,
    DataError,
    IntegrityError,
    NotSupportedError,
    ProgrammingError,
    sql,
)

from resources.sync.column_types import plain
from runyard.errors import NonRetriable
from runyard.store import database

_LOCK_SECONDS = 60.0

Tables = Mapping[str, Mapping[str, str]]

# by pg_class_relname_nsp_index and pg_attribute_relid_attnum_index
_COLUMNS = """
SELECT relname AS table, attname AS column, format_type(atttypid, atttypmod) AS kind
FROM pg_attribute
JOIN pg_class ON pg_class.oid = attrelid
WHERE relnamespace = to_regnamespace(%s) AND relkind IN ('r', 'p')
  AND attnum > 0 AND NOT attisdropped
  AND relname NOT LIKE '\\_dlt%%' AND attname NOT IN ('_dlt_id', '_dlt_load_id')
ORDER BY relname, attnum
"""


def existing_columns(schema: str) -> dict[str, dict[str, str]]:
    """The column types of the data tables in a schema."""
    tables: dict[str, dict[str, str]] = {}
    with database.connection() as connection:
        for row in connection.execute(_COLUMNS, (schema,)).fetchall():
            tables.setdefault(str(row["table"]), {})[str(row["column"])] = str(row["kind"])
    return tables


def changes_of(before: Tables, after: Tables) -> list[str]:
    """The changes that a load would make, a line for each."""
    changes = []
    for name, columns in after.items():
        if name not in before and columns:
            changes.append(f"new table {name} ({', '.join(columns)})")
        for column, kind in columns.items() if name in before else ():
            had = before[name].get(column)
            if had is None:
                changes.append(f"new column {name}.{column} ({kind})")
            elif plain(had) != kind:
                changes.append(f"{name}.{column} is {kind}, was {plain(had)}")
    return sorted(changes)


def alter(schema: str, before: Tables, after: Tables) -> None:
    """Change columns to their new types, also in the staging schema; raises `NonRetriable`."""
    staging = f"{schema}_staging"
    there = {schema: before, staging: existing_columns(staging)}
    with database.transaction(_LOCK_SECONDS) as connection:
        for place, tables in there.items():
            for table, columns in after.items():
                had = tables.get(table, {})
                for column, kind in columns.items():
                    if column in had and plain(had[column]) != kind:
                        _alter(connection, sql.Identifier(place, table), column, kind)


def _alter(connection: Connection[Any], table: sql.Identifier, column: str, kind: str) -> None:
    name, to = sql.Identifier(column), sql.SQL(kind)
    change = sql.SQL("ALTER TABLE {} ALTER COLUMN {} TYPE {} USING {}::text::{}")
    try:
        connection.execute(change.format(table, name, to, name, to))
    except (DataError, IntegrityError, NotSupportedError, ProgrammingError) as error:
        said = str(error).splitlines()[0]
        what = f"{table.as_string(connection)}.{column} cannot become {kind}: {said}"
        raise NonRetriable(what) from None
