"""What is done in the database around a load: the watermark that it has reached, its record, and what its rows mean for the families' own tables."""

from datetime import datetime
from typing import TYPE_CHECKING, Any

from dagster import ConfigurableResource
from psycopg import sql

from resources.sync_sources import Source, sources
from runyard.errors import NonRetriable
from runyard.store import database

if TYPE_CHECKING:
    from resources.sync_loader import Loaded


class Syncs(ConfigurableResource[Any]):
    """Loads sources by name."""

    def load(self, name: str, *, agree: bool = False, preview: bool = False) -> "Loaded":
        """Load a source and record it; raises as `resources.sync_loader.load`."""
        from resources.sync_loader import load  # dlt takes seconds to import, and is needed here alone

        source = sources().get(name)
        if source is None:
            raise NonRetriable(f"there is no source {name}; there are: {', '.join(sources()) or 'none'}")
        with database.connection() as connection:
            # One load of a source at a time, whoever asks: its working folder is one. Held by the session, so that a killed worker holds nothing.
            lock = connection.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 8292)) AS mine", (name,)).fetchone()
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
            watermark = _watermark(source, table.name, table.cursor) if table.cursor else None
            connection.execute(
                "INSERT INTO app.sync_loads (source, table_name, rows, watermark, seconds) VALUES (%s, %s, %s, %s, %s)",
                (source.name, table.name, loaded.rows.get(table.name, 0), watermark, loaded.seconds / len(source.table)),
            )


def _watermark(source: Source, table: str, cursor: str) -> datetime | None:
    """The newest time in a table's cursor, where that is a time."""
    with database.connection() as connection:
        # by the catalog's own indexes
        found = connection.execute(
            "SELECT data_type FROM information_schema.columns WHERE table_schema = %s AND table_name = %s AND column_name = %s", (source.dataset, table, cursor)
        ).fetchone()
        if found is None or "timestamp" not in str(found["data_type"]):
            return None
        # (every row is looked at, unless the table has an index of that column)
        row = connection.execute(sql.SQL("SELECT max({}) AS at FROM {}").format(sql.Identifier(cursor), sql.Identifier(source.dataset, table))).fetchone()
    return row["at"] if row else None  # type: ignore[return-value]


def apply_suppressions(source: Source) -> int:
    """Suppress the addresses in a source's tables (`email`), each with the table's name as the reason; return how many are new. What is there already stays."""
    added = 0
    with database.transaction() as connection:
        for table in source.table:
            known = connection.execute("SELECT to_regclass(%s) AS name", (f"{source.dataset}.{table.name}",)).fetchone()
            if known is None or known["name"] is None:
                continue  # nothing was ever loaded into it
            # by suppressions_pkey
            added += connection.execute(
                sql.SQL(
                    "INSERT INTO app.suppressions (address, reason, source) SELECT DISTINCT lower(email), {}, {} FROM {} WHERE email <> '' ON CONFLICT DO NOTHING"
                ).format(sql.Literal(table.name.replace("_", " ")), sql.Literal(source.name), sql.Identifier(source.dataset, table.name))
            ).rowcount
    return added
