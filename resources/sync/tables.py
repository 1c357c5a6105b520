"""Loads sources by name, records each load with its watermark, and applies suppressions."""

from datetime import datetime
from typing import TYPE_CHECKING, Any

from dagster import ConfigurableResource
from psycopg import sql

from resources.sync.source_config import Source, Table, sources
from runyard.errors import NonRetriable
from runyard.store import database

if TYPE_CHECKING:
    from resources.sync.loader import Loaded


_WATERMARK = """
    SELECT max(at){zone} AS at FROM (SELECT {column} AS at FROM {table}) AS rows
    WHERE at >= '0001-01-02' AND at < '9999-12-31'"""


class Syncs(ConfigurableResource[Any]):
    """Loads sources by name."""

    def load(self, name: str, *, agree: bool = False, preview: bool = False) -> "Loaded":
        """Load a source and record it; raises as `resources.sync.loader.load`."""
        from resources.sync.loader import load  # imports dlt, which takes seconds

        source = sources().get(name)
        if source is None:
            raise NonRetriable(
                f"there is no source {name}; there are: {', '.join(sources()) or 'none'}"
            )
        with database.connection() as connection:
            # One load of a source at a time: they share a working folder. The lock belongs to the
            # session, so a killed worker holds nothing.
            lock = connection.execute(
                "SELECT pg_try_advisory_lock(hashtextextended(%s, 8292)) AS mine", (name,)
            ).fetchone()
            if lock is None or not lock["mine"]:
                raise ConnectionError(f"the source {name} is being loaded already")
            try:
                loaded = load(source, agree=agree, preview=preview)
                if loaded.applied:
                    _record(source, loaded)
                    if source.apply == "suppressions":
                        apply_suppressions(source)
            finally:
                connection.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 8292))", (name,))
        return loaded


def _record(source: Source, loaded: "Loaded") -> None:
    with database.connection() as connection:
        for table in source.table:
            connection.execute(
                """
                INSERT INTO app.sync_loads (source, table_name, rows, watermark, seconds)
                VALUES (%s, %s, %s, %s, %s)""",
                (
                    source.name,
                    table.name,
                    loaded.rows.get(table.name, 0),
                    _watermark(source, table) if table.cursor else None,
                    loaded.seconds / len(source.table),
                ),
            )


def _watermark(source: Source, table: Table) -> datetime | None:
    """The newest time in a table's cursor, where that is a time; infinity is ignored."""
    from resources.sync.column_types import TIMESTAMP, TIMESTAMPTZ, without_modifier
    from resources.sync.columns import Columns
    from resources.sync.schema import existing_columns

    column = Columns(table).called(table.cursor or "")
    kind = existing_columns(source.dataset).get(table.name, {}).get(column, "")
    zone = {TIMESTAMP: sql.SQL(" AT TIME ZONE 'UTC'"), TIMESTAMPTZ: sql.SQL("")}
    if without_modifier(kind) not in zone:
        return None
    with database.connection() as connection:
        # (a full scan, unless the table has an index of that column)
        row = connection.execute(
            sql.SQL(_WATERMARK).format(
                zone=zone[without_modifier(kind)],
                column=sql.Identifier(column),
                table=sql.Identifier(source.dataset, table.name),
            )
        ).fetchone()
    return row["at"] if row else None  # type: ignore[return-value]


def apply_suppressions(source: Source) -> int:
    """Suppress the addresses in a source's tables (`email`), each with the table's name as the
    reason; return how many are new. Existing ones are left alone. Raises `NonRetriable`."""
    from resources.sync.schema import existing_columns

    added = 0
    there = existing_columns(source.dataset)
    with database.transaction() as connection:
        for table in source.table:
            if table.name not in there:
                continue  # nothing was ever loaded into it
            if "email" not in there[table.name]:
                # A retry would load everything again, and end here.
                raise NonRetriable(
                    f"{source.dataset}.{table.name} has no column email with the addresses to "
                    "suppress: the loaded rows stay"
                )
            # by suppressions_pkey
            added += connection.execute(
                sql.SQL(
                    "INSERT INTO app.suppressions (address, reason, source)"
                    " SELECT DISTINCT lower(email::text), {}, {} FROM {}"
                    " WHERE email::text <> '' ON CONFLICT DO NOTHING"
                ).format(
                    sql.Literal(table.name.replace("_", " ")),
                    sql.Literal(source.name),
                    sql.Identifier(source.dataset, table.name),
                )
            ).rowcount
    return added
