"""Stores the rollups of a day, as rows of the schema `analytics` and as a Parquet file.

A day is always replaced as a whole.
"""

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from dagster import ConfigurableResource
from psycopg import sql
from upath import UPath

from resources.settings import AnalyticsSettings
from runyard.settings import settings
from runyard.store import database
from runyard.store.data_folder import make_folder
from runyard.store.private_folders import open_like

if TYPE_CHECKING:
    import pandas as pd


class RollupTables(ConfigurableResource[Any]):
    """Writes and reads the tables of the schema `analytics`."""

    @property
    def folder(self) -> UPath:
        """Where the Parquet files are: ANALYTICS_FOLDER, or `analytics` in the data folder."""
        return UPath(AnalyticsSettings.read().analytics_folder or settings().data / "analytics")

    def replace(self, name: str, day: date, frame: "pd.DataFrame") -> str:
        """Write a day of a table and its file; return the file's path."""
        columns = ["day", *frame.columns]
        copy = sql.SQL("COPY {} ({}) FROM STDIN").format(
            sql.Identifier("analytics", name), sql.SQL(", ").join(map(sql.Identifier, columns))
        )
        with database.transaction() as connection, connection.cursor() as cursor:
            # One writer a day: two at a time would both delete before either inserts.
            cursor.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended(%s, 8291))", (f"{name} {day}",)
            )
            # by the table's primary key, which begins with the day
            cursor.execute(
                sql.SQL("DELETE FROM {} WHERE day = %s").format(sql.Identifier("analytics", name)),
                (day,),
            )
            with cursor.copy(copy) as rows:
                for row in (
                    frame.astype(object)
                    .where(frame.notna(), None)
                    .itertuples(index=False, name=None)
                ):
                    rows.write_row((day, *row))
            # by days_pkey
            cursor.execute(
                """
                INSERT INTO analytics.days (rollup, day, rows) VALUES (%s, %s, %s)
                ON CONFLICT (rollup, day) DO UPDATE SET rows = excluded.rows, made_at = now()""",
                (name, day, len(frame)),
            )
        path = self.folder / name / f"day={day}.parquet"
        local = path.protocol in ("", "file")
        if local:
            make_folder(Path(path.parent.path))
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(frame.to_parquet(index=False))
        if local:
            open_like(Path(self.folder.path), Path(path.path))
        return str(path)

    def read(self, name: str, since: date, until: date) -> "pd.DataFrame":
        """The rows of the days from `since` to `until`, both included."""
        statement = sql.SQL("SELECT * FROM {} WHERE day BETWEEN %s AND %s ORDER BY 1, 2").format(
            sql.Identifier("analytics", name)
        )
        with database.connection() as connection:
            cursor = connection.execute(statement, (since, until))
            rows = cursor.fetchall()
            return frame_of(rows, [column.name for column in cursor.description or []])

    def days(self, name: str) -> set[date]:
        """The days that a table has."""
        with database.connection() as connection:
            # by days_pkey
            statement = "SELECT day FROM analytics.days WHERE rollup = %s"
            rows = connection.execute(statement, (name,)).fetchall()
        return {cast(date, row["day"]) for row in rows}


def frame_of(rows: Sequence[Any], columns: Sequence[str]) -> "pd.DataFrame":
    """Rows as a frame with these columns, even without rows.

    pandas takes a second to import, so it is imported only when a frame is needed.
    """
    import pandas as pd

    return pd.DataFrame(rows, columns=list(columns))


def family_rows(statement: str, start: Any, end: Any) -> "pd.DataFrame":
    """The result of a statement over the families' own tables for a period."""
    with database.connection() as connection:
        cursor = connection.execute(statement.encode(), {"start": start, "end": end})
        return frame_of(cursor.fetchall(), [column.name for column in cursor.description or []])
