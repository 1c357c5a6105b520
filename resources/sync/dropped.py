"""Recreates and reloads tables and columns of a source that somebody has dropped by hand.

dlt records which tables it has created (`_dlt_version`) and, in its state, how far each was read;
it does not check whether a table still exists.
"""

from typing import Any

from dlt.pipeline.helpers import pipeline_drop
from psycopg import sql

from resources.sync.schema import existing_columns
from resources.sync.source_config import Source
from runyard.store import database

# One row for each version; they are few, and the table has no index.
_RECORDED = """
SELECT tables.name, array_agg(columns.name) AS columns
FROM (
    SELECT schema::jsonb AS schema FROM {versions} WHERE schema_name = %s
    ORDER BY inserted_at DESC LIMIT 1
) AS newest
CROSS JOIN LATERAL jsonb_each(newest.schema -> 'tables') AS tables (name, declared)
CROSS JOIN LATERAL jsonb_each(tables.declared -> 'columns') AS columns (name, declared)
WHERE tables.name NOT LIKE '\\_dlt%%' AND columns.declared ? 'data_type'
  AND columns.name NOT IN ('_dlt_id', '_dlt_load_id')
GROUP BY tables.name
"""


def restore_dropped(pipeline: Any, source: Source) -> list[str]:
    """Make the next load read dropped tables from the beginning; return a note about each.

    That load creates the tables; a table with a dropped column stays as it is until then.
    """
    there = existing_columns(source.dataset)
    dropped = []
    for table, columns in _recorded(source).items():
        if missing := columns - there.get(table, {}).keys():
            what = f"column {', '.join(sorted(missing))}" if table in there else "table"
            dropped.append(
                (table, f"{table}: its {what} was dropped here: the whole table is read again")
            )
    if not dropped:
        return []
    if pipeline.default_schema_name:
        # Each step has its own state: `users_rows` for a table `users`, for example.
        names = [f"re:{table}(_rows|_pages|_files)?$" for table, _ in dropped]
        pipeline_drop(pipeline, resources=names, state_only=True)()
    _forget_versions(source)
    return [note for _, note in dropped]


def _recorded(source: Source) -> dict[str, set[str]]:
    """The columns that dlt has created, by table."""
    with database.connection() as connection:
        if not _has_versions(connection, source.dataset):
            return {}
        statement = sql.SQL(_RECORDED).format(versions=_versions(source.dataset))
        rows = connection.execute(statement, (source.name,)).fetchall()
    return {str(row["name"]): set(row["columns"]) for row in rows}  # type: ignore[call-overload]


def _forget_versions(source: Source) -> None:
    """Delete the version records, so that dlt checks what exists and creates what does not."""
    with database.transaction() as connection:
        for dataset in (source.dataset, f"{source.dataset}_staging"):
            if _has_versions(connection, dataset):
                connection.execute(sql.SQL("DELETE FROM {}").format(_versions(dataset)))


def _has_versions(connection: Any, dataset: str) -> bool:
    name = _versions(dataset).as_string(connection)
    row = connection.execute("SELECT to_regclass(%s) IS NOT NULL AS there", (name,)).fetchone()
    return bool(row["there"])


def _versions(dataset: str) -> sql.Identifier:
    return sql.Identifier(dataset, "_dlt_version")
